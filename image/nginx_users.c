/* What nginx is told of users: it looks them up by name where it is root, and an image may have none.

   It never changes to another user itself (model_server/nginx.py does), so root is all it needs to know. */

#define _DEFAULT_SOURCE
#include <grp.h>
#include <pwd.h>
#include <stddef.h>

struct passwd *getpwnam(const char *name) {
    static struct passwd root = {.pw_name = "root", .pw_passwd = "", .pw_gecos = "", .pw_dir = "/", .pw_shell = ""};
    (void)name;
    return &root;
}

struct group *getgrnam(const char *name) {
    static char *members[] = {NULL};
    static struct group root = {.gr_name = "root", .gr_passwd = "", .gr_mem = members};
    (void)name;
    return &root;
}

/* Root without capabilities may not change its groups, and has those that it was given. */
int initgroups(const char *user, gid_t group) {
    (void)user;
    (void)group;
    return 0;
}
