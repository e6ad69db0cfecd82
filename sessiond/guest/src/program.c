/* Reads the little of ELF (elf(5)) and of scripts' first lines (execve(2)) that tells what the kernel will open. */
#include "program.h"

#include <elf.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    HEAD_BYTES = 4096,
    LINE_MOST = 256, /* BINPRM_BUF_SIZE: the kernel reads no more of a script */
};

bool program_find(const char *name, const char *search, char path[PATH_MAX]) {
    struct stat found;
    if (strchr(name, '/') != NULL) /* relative to the working directory it means another file for each command */
        return name[0] == '/' && snprintf(path, PATH_MAX, "%s", name) < PATH_MAX && stat(path, &found) == 0 && S_ISREG(found.st_mode);
    for (const char *at = search;; at++) {
        size_t directory = strcspn(at, ":");
        int length = snprintf(path, PATH_MAX, "%.*s/%s", (int)directory, at, name);
        if (*at == '/' && length < PATH_MAX && stat(path, &found) == 0 && S_ISREG(found.st_mode) && access(path, X_OK) == 0)
            return true;
        at += directory;
        if (*at == '\0')
            return false;
    }
}

/* `head` is the beginning of the file, where linkers put what is looked for here. */
static bool elf_loader(const uint8_t *head, size_t size, char loader[PATH_MAX]) {
    Elf64_Ehdr header;
    if (size < sizeof header || memcmp(head, ELFMAG, SELFMAG) != 0 || head[EI_CLASS] != ELFCLASS64)
        return false;
    memcpy(&header, head, sizeof header);
    for (size_t i = 0; i < header.e_phnum; i++) {
        Elf64_Phdr part;
        if (header.e_phoff > size || (i + 1) * sizeof part > size - header.e_phoff)
            return false;
        memcpy(&part, head + header.e_phoff + i * sizeof part, sizeof part);
        if (part.p_type != PT_INTERP)
            continue;
        if (part.p_offset > size || part.p_filesz > size - part.p_offset || part.p_filesz > PATH_MAX)
            return false;
        memcpy(loader, head + part.p_offset, (size_t)part.p_filesz);
        return part.p_filesz > 1 && loader[part.p_filesz - 1] == '\0';
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

static bool script_interpreter(const uint8_t *head, size_t size, char interpreter[PATH_MAX], char then[NAME_MAX + 1]) {
    char line[LINE_MOST] = {0};
    memcpy(line, head, size < LINE_MOST ? size : LINE_MOST - 1);
    if (line[0] != '#' || line[1] != '!')
        return false;
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
    uint8_t head[HEAD_BYTES];
    then[0] = '\0';
    int fd = openat(AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t size = read(fd, head, sizeof head);
    close(fd);
    bool needs = size > 0 && (elf_loader(head, (size_t)size, interpreter) || script_interpreter(head, (size_t)size, interpreter, then));
    return needs && interpreter[0] == '/';
}
