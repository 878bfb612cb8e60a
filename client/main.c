/* SPDX-License-Identifier: Apache-2.0 */
/*
 * main.c - the program `platen`: finds the subcommand, reads its options, says how it went.
 *
 * Exit codes: 0 done; 1 failed; 2 wrong usage. Whatever fails is one line on stderr, `platen: STATUS: sentence`. A
 * signal ends the program at once: it owns nothing that the kernel does not take back, and a server sees the connection go.
 */
#include "client/command.h"
#include "client/terminal.h"

#include "common/base/bytes.h"
#include "common/base/file.h"
#include "common/base/text.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define COMMAND(name) extern const struct command command_##name;
#include "client/commands.def"
#undef COMMAND

static const struct command *const commands[] = {
#define COMMAND(name) &command_##name,
#include "client/commands.def"
#undef COMMAND
};

static void on_signal(int signal)
{
    static const char interrupted[] = "\r\033[Kplaten: CANCELLED: interrupted\n";
    const size_t clear = isatty(STDERR_FILENO) ? 0 : 4; /* takes a line of progress away, where there may be one */
    ssize_t ignored = write(STDERR_FILENO, interrupted + clear, sizeof interrupted - 1 - clear);

    (void)signal;
    (void)ignored;
    _exit(EXIT_FAILED);
}

/* Also where a shell's `&` had SIGINT ignored: whoever sends it means it. */
static void catch_signals(void)
{
    struct sigaction action = { .sa_handler = on_signal };

    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    signal(SIGPIPE, SIG_IGN); /* a closed stdout is found by print_end */
}

static int fail(const struct err *err, enum status st, int code)
{
    terminal_clear();
    fprintf(stderr, "platen: %s: %s\n", status_word(st), err->text[0] ? err->text : "failed without a sentence");
    return code;
}

static void print(const struct text *t)
{
    fwrite(text_str(t), 1, t->bytes, stdout);
}

static void help_all(void)
{
    struct text t = { 0 };

    text_puts(
        &t,
        "platen - asks questions of long contexts whose KV cache was pressed\n\nusage: platen COMMAND [OPTIONS]\n\n");
    for (size_t i = 0; i < ARRAY_LEN(commands); i++)
        text_printf(&t, "  %-10s %s\n", commands[i]->name, commands[i]->summary);
    text_puts(&t, "\n`platen COMMAND --help` tells a command's options.\n");
    print(&t);
    text_fini(&t);
}

static void help_one(const struct command *c)
{
    struct text t = { 0 };

    text_printf(&t, "platen %s - %s\n\nusage: platen %s %s\n\n", c->name, c->summary, c->name, c->usage);
    opt_help(c->options, &t);
    if (c->more)
        text_printf(&t, "\n%s", c->more);
    print(&t);
    text_fini(&t);
}

static const struct command *command_find(const char *name, struct err *err)
{
    const char *names[ARRAY_LEN(commands)], *nearest;

    for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
        if (strcmp(commands[i]->name, name) == 0)
            return commands[i];
        names[i] = commands[i]->name;
    }
    nearest = text_nearest(name, names, ARRAY_LEN(names));
    if (nearest)
        err_set(err, ST_EINVAL, "unknown command \"%s\"; did you mean %s?", name, nearest);
    else
        err_set(err, ST_EINVAL, "unknown command \"%s\"; platen --help lists them", name);
    return NULL;
}

/* Everything that is usage: nothing was opened yet when this fails. */
static enum status command_read(const struct command *c, void *options, int argc, char **argv, struct arena *arena,
                                struct err *err)
{
    enum status st = opt_defaults(c->options, options, arena, err);

    if (st == ST_OK)
        st = opt_parse_line(c->options, options, argc, argv, NULL, arena, err);
    if (st != ST_OK || *(const bool *)options)
        return st;
    st = opt_check(c->options, options, err);
    if (st == ST_OK && c->check)
        st = c->check(options, err);
    return st;
}

static enum status print_end(struct err *err)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return ST_OK;
    return err_set(err, ST_EINTERNAL, "stdout: cannot write all of the output");
}

static int command_main(const struct command *c, int argc, char **argv)
{
    struct arena arena = { 0 };
    struct err err = { 0 };
    void *options = arena_alloc(&arena, c->options_bytes);
    enum status st = command_read(c, options, argc, argv, &arena, &err);
    int code = 0;

    if (st != ST_OK) {
        code = fail(&err, st, EXIT_USAGE);
    } else if (*(const bool *)options) {
        help_one(c);
    } else {
        st = c->run(options, &arena, &err);
        if (st == ST_OK)
            st = print_end(&err);
        if (st != ST_OK)
            code = fail(&err, st, EXIT_FAILED);
    }
    arena_fini(&arena);
    return code;
}

int main(int argc, char **argv)
{
    const struct command *c;
    struct err err = { 0 };

    file_fill_std();
    catch_signals();
    if (argc < 2)
        return fail(&err, err_set(&err, ST_EINVAL, "no command given; platen --help lists them"), EXIT_USAGE);
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0) {
        help_all();
        return 0;
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("platen %s\n", PLATEN_VERSION);
        return 0;
    }
    c = command_find(argv[1], &err);
    if (!c)
        return fail(&err, ST_EINVAL, EXIT_USAGE);
    return command_main(c, argc - 1, argv + 1);
}
