/* Run the program of /longshore/program that has the name this was called by, with our own Python.

   Static, and no script: whatever image it is in, there is no interpreter and no library that it needs, and a shell
   would add variables, such as PWD, which the algorithm would see.

   The variables of the image are for its programs. Those that would change ours are renamed here, before there is a
   dynamic linker or a Python to read them; model_server/settings.py gives them back to the algorithm. */

#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PYTHON "/longshore/bin/python3"
#define PROGRAMS "/longshore/program/"
#define KEPT "LONGSHORE_KEPT_"

/* Names, or with a star the beginnings of names. PYTHON* is not among them: Python is told not to look (-E). */
static const char *const hidden[] = {
    /* the dynamic linker and the C library: which code is loaded, where memory comes from, languages and times */
    "LD_*", "GLIBC_TUNABLES", "MALLOC_*", "GCONV_PATH", "GETCONF_DIR", "LANG", "LANGUAGE", "LC_*", "LOCPATH", "NLSPATH",
    "OUTPUT_CHARSET", "TZ", "TZDIR",
    /* … and how it finds hosts */
    "HOSTALIASES", "LOCALDOMAIN", "RES_OPTIONS", "RESOLV_*",
    /* OpenSSL, and who uses it: configuration, certificates, a file for the keys of connections */
    "CTLOG_FILE", "OPENSSL_*", "QLOGDIR", "RANDFILE", "REQUESTS_CA_BUNDLE", "SSLKEYLOGFILE", "SSL_CERT_*",
    /* nginx and gunicorn: options, sockets that they would take over, a path that all requests would need */
    "FORWARDED_ALLOW_IPS", "GUNICORN_*", "LISTEN_*", "NGINX", "PORT", "SCRIPT_NAME", "SENDFILE", "WEB_CONCURRENCY",
    /* Python's own that -E leaves, and its packages: debuggers, plugins, folders that may not be there */
    "BOTO*", "FLASK_*", "PYDANTIC_*", "TEMP", "TMP", "TMPDIR", "WERKZEUG_*", "_PYTHON_*",
};

static int is_hidden(const char *variable) {
    size_t length = strcspn(variable, "=");
    for (size_t i = 0; i < sizeof hidden / sizeof *hidden; i++) {
        size_t known = strcspn(hidden[i], "*");
        if (hidden[i][known] ? length >= known : length == known)
            if (!strncmp(variable, hidden[i], known))
                return 1;
    }
    return 0;
}

static char *kept(const char *variable) {
    char *renamed = malloc(sizeof KEPT + strlen(variable));
    if (renamed)
        strcat(strcpy(renamed, KEPT), variable);
    return renamed;
}

static int fail(const char *what) {
    perror(what);
    return 127;
}

int main(int argc, char **argv) {
    for (char **variable = environ; *variable; variable++)
        if (is_hidden(*variable) && !(*variable = kept(*variable)))
            return fail("longshore");

    const char *called = argc ? argv[0] : "longshore";
    const char *slash = strrchr(called, '/');
    const char *name = slash ? slash + 1 : called;
    char *program = malloc(sizeof PROGRAMS + strlen(name));
    char *own[] = {PYTHON, "-Es", "-Xutf8", program};
    char **arguments = calloc(sizeof own / sizeof *own + argc + 1, sizeof *arguments);
    if (!program || !arguments)
        return fail("longshore");
    strcat(strcpy(program, PROGRAMS), name);
    memcpy(arguments, own, sizeof own);
    for (int i = 1; i < argc; i++)
        arguments[sizeof own / sizeof *own - 1 + i] = argv[i];
    execv(PYTHON, arguments);
    return fail(PYTHON);
}
