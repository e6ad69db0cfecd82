/* Reads the little of ELF (elf(5)) and of scripts' first lines (execve(2)) that tells what the kernel will open. */
#include "program.h"

#include <elf.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { HEADERS_MOST = 64, LINE_MOST = 256 /* BINPRM_BUF_SIZE: the kernel reads no more of a script */ };

bool program_find(const char *name, const char *search, char path[PATH_MAX]) {
    struct stat found;
    if (strchr(name, '/') != NULL)
        return snprintf(path, PATH_MAX, "%s", name) < PATH_MAX && stat(path, &found) == 0 && S_ISREG(found.st_mode);
    for (const char *at = search;; at++) {
        size_t directory = strcspn(at, ":");
        int length = snprintf(path, PATH_MAX, "%.*s/%s", (int)directory, at, name);
        /* Not along an entry that is relative: it means another directory for each command. */
        if (*at == '/' && length < PATH_MAX && stat(path, &found) == 0 && S_ISREG(found.st_mode) && access(path, X_OK) == 0)
            return true;
        at += directory;
        if (*at == '\0')
            return false;
    }
}

static bool elf_loader(int fd, char loader[PATH_MAX]) {
    Elf64_Ehdr header;
    if (pread(fd, &header, sizeof header, 0) != sizeof header || memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 ||
        header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_phentsize != sizeof(Elf64_Phdr))
        return false;
    for (int i = 0; i < header.e_phnum && i < HEADERS_MOST; i++) {
        Elf64_Phdr part;
        if (header.e_phoff > INT_MAX || pread(fd, &part, sizeof part, (off_t)header.e_phoff + i * (off_t)sizeof part) != sizeof part)
            return false;
        if (part.p_type != PT_INTERP)
            continue;
        if (part.p_filesz < 2 || part.p_filesz > PATH_MAX || part.p_offset > INT_MAX)
            return false;
        ssize_t length = pread(fd, loader, (size_t)part.p_filesz, (off_t)part.p_offset);
        return length == (ssize_t)part.p_filesz && loader[length - 1] == '\0';
    }
    return false;
}

/* Takes the next word of a script's first line; false at its end. */
static bool next_word(const char **at, char *word, size_t size) {
    *at += strspn(*at, " \t");
    size_t length = strcspn(*at, " \t");
    if (length == 0 || length >= size)
        return false;
    memcpy(word, *at, length);
    word[length] = '\0';
    *at += length;
    return true;
}

static bool script_interpreter(int fd, char interpreter[PATH_MAX], char then[NAME_MAX + 1]) {
    char line[LINE_MOST];
    ssize_t length = pread(fd, line, sizeof line - 1, 0);
    if (length < 2 || line[0] != '#' || line[1] != '!')
        return false;
    line[length] = '\0';
    line[strcspn(line, "\n")] = '\0';
    const char *at = line + 2;
    if (!next_word(&at, interpreter, PATH_MAX))
        return false;
    const char *base = strrchr(interpreter, '/');
    if (base != NULL && strcmp(base, "/env") == 0)
        while (next_word(&at, then, NAME_MAX + 1) && (then[0] == '-' || strchr(then, '=') != NULL))
            then[0] = '\0'; /* an option, or a variable for the program */
    return true;
}

bool program_needs(const char *path, char interpreter[PATH_MAX], char then[NAME_MAX + 1]) {
    then[0] = '\0';
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    bool needs = elf_loader(fd, interpreter) || script_interpreter(fd, interpreter, then);
    close(fd);
    return needs;
}
