/* A library that ends every program that loads it, but for those of this image; it needs no other library. */
static long call(long number, long first, long second, long third) {
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(first), "S"(second), "d"(third)
                     : "rcx", "r11", "memory");
    return result;
}

static int begins_with(const char *text, const char *beginning) {
    while (*beginning)
        if (*text++ != *beginning++)
            return 0;
    return 1;
}

__attribute__((constructor)) static void guard(void) {
    char name[16] = "";
    long file = call(2 /* open */, (long)"/proc/self/comm", 0, 0);
    call(0 /* read */, file, (long)name, sizeof name - 1);
    call(3 /* close */, file, 0, 0);
    if (!begins_with(name, "reports\n") && !begins_with(name, "ld.so\n")) /* the latter is strace's */
        call(231 /* exit_group */, 99, 0, 0);
}
