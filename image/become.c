/* Become another user with a bound on memory, then the algorithm's program; model_server/spawn.py starts it.

   Python changes user only in a process that is a copy of its own (fork), which takes the longer the more memory it
   has, and holds up all its threads. This is started without a copy (vfork) and does the rest.

   The arguments are: the descriptor to report to, the limit in bytes or -, the groups with commas between them or -, the
   group and the user, or - for those that stay, how many paths come, the paths at which the program may be, and what the
   program is called and is given. What fails is reported as a letter for where it failed (`u` before the program was
   executed, `x` when it was) and errno; nothing is reported when the program has begun. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum { REPORT = 1, LIMIT, GROUPS, GROUP, USER, COUNT, PATHS };

static int report_to;

static void fail(char stage, int error) {
    char words[32];
    int length = snprintf(words, sizeof words, "%c%d", stage, error);
    _exit(write(report_to, words, length) == length ? 127 : 126);
}

static int is_given(const char *argument) { return strcmp(argument, "-") != 0; }

static void limit_data(const char *argument) {
    struct rlimit limit;
    rlim_t wanted = strtoull(argument, NULL, 10);
    if (getrlimit(RLIMIT_DATA, &limit))
        fail('u', errno);
    if (limit.rlim_max == RLIM_INFINITY || wanted < limit.rlim_max)
        limit.rlim_max = wanted;
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_DATA, &limit))
        fail('u', errno);
}

static void set_groups(const char *argument) {
    size_t count = 0;
    gid_t *groups = calloc(strlen(argument) + 1, sizeof *groups);
    if (!groups)
        fail('u', ENOMEM);
    for (char *rest = (char *)argument; *rest; rest += *rest == ',')
        groups[count++] = strtoul(rest, &rest, 10);
    if (setgroups(count, groups))
        fail('u', errno);
    free(groups);
}

/* The program is looked for as Python does: the error of the last path counts, unless one says more than "not there". */
static void execute(char **paths, int count, char **arguments) {
    int told = 0;
    for (int i = 0; i < count; i++) {
        execve(paths[i], arguments, environ);
        if (errno != ENOENT && errno != ENOTDIR && !told)
            told = errno;
    }
    fail('x', told ? told : errno);
}

int main(int argc, char **argv) {
    if (argc <= PATHS)
        return 2;
    report_to = atoi(argv[REPORT]);
    int count = atoi(argv[COUNT]);
    if (count < 1 || count >= argc - PATHS || fcntl(report_to, F_SETFD, FD_CLOEXEC))
        return 2;
    if (is_given(argv[GROUPS]))
        set_groups(argv[GROUPS]);
    gid_t group = is_given(argv[GROUP]) ? strtoul(argv[GROUP], NULL, 10) : (gid_t)-1;
    uid_t user = is_given(argv[USER]) ? strtoul(argv[USER], NULL, 10) : (uid_t)-1;
    if (setresgid(group, group, group) || setresuid(user, user, user))
        fail('u', errno);
    if (is_given(argv[LIMIT]))
        limit_data(argv[LIMIT]);
    execute(argv + PATHS, count, argv + PATHS + count);
}
