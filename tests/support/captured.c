/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/support/captured.h"

#include "tests/support/cmocka_main.h"

#include <unistd.h>

static char seen[1 << 20];

struct capture capture_begin(void)
{
    struct capture c = { tmpfile(), dup(STDERR_FILENO) };

    assert_non_null(c.file);
    assert_true(dup2(fileno(c.file), STDERR_FILENO) >= 0);
    return c;
}

char *capture_end(struct capture c)
{
    size_t bytes;

    assert_true(dup2(c.before, STDERR_FILENO) >= 0);
    close(c.before);
    rewind(c.file);
    bytes = fread(seen, 1, sizeof seen - 1, c.file);
    seen[bytes] = '\0';
    fclose(c.file);
    return seen;
}
