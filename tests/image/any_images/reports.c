/* Copies its inputs to /output, and beside them what it finds itself to be: the files of a process in /proc. */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void need(int holds, const char *what) {
    if (holds)
        return;
    perror(what);
    exit(1);
}

static void copy(const char *from, const char *to) {
    char block[65536];
    ssize_t length;
    int source = open(from, O_RDONLY), target = open(to, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    need(source >= 0, from);
    need(target >= 0, to);
    while ((length = read(source, block, sizeof block)) > 0)
        need(write(target, block, length) == length, to);
    need(length == 0, from);
    close(source);
    close(target);
}

int main(void) {
    char from[4096], to[4096], folder[4096] = "";
    const char *names[] = {"cmdline", "environ", "status", "maps"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(from, sizeof from, "/proc/self/%s", names[i]);
        snprintf(to, sizeof to, "/output/%s", names[i]);
        copy(from, to);
    }
    need(getcwd(folder, sizeof folder) != NULL, "getcwd");
    FILE *cwd = fopen("/output/cwd", "w");
    need(cwd != NULL && fputs(folder, cwd) >= 0 && fclose(cwd) == 0, "/output/cwd");

    need(mkdir("/output/copies", 0755) == 0, "/output/copies");
    DIR *input = opendir("/input");
    need(input != NULL, "/input");
    for (struct dirent *entry; (entry = readdir(input));) {
        if (entry->d_name[0] == '.')
            continue;
        snprintf(from, sizeof from, "/input/%s", entry->d_name);
        snprintf(to, sizeof to, "/output/copies/%s", entry->d_name);
        copy(from, to);
    }
    puts("reported");
    return 0;
}
