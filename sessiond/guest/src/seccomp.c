/* The filter: a BPF program made at run time from the tables that build.py makes of seccomp.toml. */
#include "seccomp.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

enum operation { IN, NOT_IN, MASKED_ZERO };

struct argument {
    int syscall;
    uint8_t index;
    enum operation operation;
    uint8_t count; /* of values */
    const uint32_t *values;
};

struct refused {
    int syscall;
    int error;
};

#include "seccomp_table.h"

#if defined(__x86_64__)
#define ARCHITECTURE AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define ARCHITECTURE AUDIT_ARCH_AARCH64
#else
#error "no system call table for this architecture"
#endif

#define COUNT(array) (sizeof(array) / sizeof *(array))
#define DATA(field) ((uint32_t)offsetof(struct seccomp_data, field))
enum { X32 = 0x40000000 }; /* the bit that marks calls of the x32 ABI: a second table with holes of its own */

static struct sock_filter program[BPF_MAXINSNS];
static unsigned short length;

static void add(uint16_t code, uint32_t value, uint8_t if_true, uint8_t if_false) {
    program[length++] = (struct sock_filter)BPF_JUMP(code, value, if_true, if_false);
}

static void load(uint32_t offset) {
    add(BPF_LD | BPF_W | BPF_ABS, offset, 0, 0);
}

static void answer(uint32_t action) {
    add(BPF_RET | BPF_K, action, 0, 0);
}

/* One condition: falls through to what follows where it holds, answers with the default errno where it does not. */
static void add_condition(const struct argument *argument) {
    uint32_t low = DATA(args) + argument->index * (uint32_t)sizeof(uint64_t), high = low + sizeof(uint32_t);
    if (argument->operation == IN) {
        load(high);
        add(BPF_JMP | BPF_JEQ | BPF_K, 0, 1, 0);
        answer(SECCOMP_RET_ERRNO | DEFAULT_ERRNO);
    }
    load(low);
    if (argument->operation == MASKED_ZERO) {
        add(BPF_JMP | BPF_JSET | BPF_K, argument->values[0], 0, 1);
        answer(SECCOMP_RET_ERRNO | DEFAULT_ERRNO);
        return;
    }
    /* IN jumps over the answer when a value matches; NOT_IN jumps to it, and over it when the last one does not either. */
    for (uint8_t i = 0; i < argument->count; i++) {
        uint8_t left = (uint8_t)(argument->count - i - 1);
        bool last = left == 0;
        if (argument->operation == IN)
            add(BPF_JMP | BPF_JEQ | BPF_K, argument->values[i], (uint8_t)(left + 1), 0);
        else
            add(BPF_JMP | BPF_JEQ | BPF_K, argument->values[i], left, last);
    }
    answer(SECCOMP_RET_ERRNO | DEFAULT_ERRNO);
}

static void build(void) {
    load(DATA(arch));
    add(BPF_JMP | BPF_JEQ | BPF_K, ARCHITECTURE, 1, 0);
    answer(SECCOMP_RET_KILL_PROCESS); /* another architecture's numbers mean other calls */
    load(DATA(nr));
    add(BPF_JMP | BPF_JGE | BPF_K, X32, 0, 1);
    answer(SECCOMP_RET_ERRNO | ENOSYS);

    /* All conditions of a call, which lie together in the table, then the permission. */
    for (size_t i = 0; i < COUNT(arguments);) {
        int call = arguments[i].syscall;
        unsigned short jump = length;
        add(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)call, 0, 0);
        for (; i < COUNT(arguments) && arguments[i].syscall == call; i++)
            add_condition(&arguments[i]);
        answer(SECCOMP_RET_ALLOW);
        program[jump].jf = (uint8_t)(length - jump - 1);
    }
    for (size_t i = 0; i < COUNT(refused); i++) {
        add(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)refused[i].syscall, 0, 1);
        answer(SECCOMP_RET_ERRNO | (uint32_t)refused[i].error);
    }
    /* In no order: the kernel finds out once which numbers are allowed whatever their arguments, and keeps them in a bitmap. */
    for (size_t i = 0; i < COUNT(allowed); i++) {
        add(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)allowed[i], 0, 1);
        answer(SECCOMP_RET_ALLOW);
    }
    answer(SECCOMP_RET_ERRNO | DEFAULT_ERRNO);
}

bool seccomp_apply(void) {
    build();
    struct sock_fprog filter = {.len = length, .filter = program};
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
}
