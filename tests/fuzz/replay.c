/* SPDX-License-Identifier: Apache-2.0 */
/*
 * replay.c - a fuzz target without a fuzzer: every file of a folder as it is, then changed here and there.
 *
 * Not a search; it keeps what a search has found from coming back, in builds and on machines that have no libFuzzer.
 * The same changes every time.
 */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SEED_BYTES_MAX = 1 << 20, CHANGES = 500 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static uint64_t next(uint64_t *x)
{
    *x ^= *x << 13;
    *x ^= *x >> 7;
    *x ^= *x << 17;
    return *x;
}

/* One to four changes: a byte, a bit, a cut, a piece twice. */
static size_t change(uint8_t *data, size_t bytes, uint64_t *x)
{
    for (uint64_t n = next(x) % 4 + 1; n > 0 && bytes > 0; n--) {
        const size_t at = (size_t)(next(x) % bytes);

        switch (next(x) % 4) {
        case 0:
            data[at] = (uint8_t)next(x);
            break;
        case 1:
            data[at] ^= (uint8_t)(1u << next(x) % 8);
            break;
        case 2:
            bytes = at;
            break;
        default:
            memmove(data + at / 2, data + at, bytes - at);
        }
    }
    return bytes;
}

static int replay(const char *path)
{
    uint8_t *seed = malloc(SEED_BYTES_MAX);
    uint64_t x = 0x9e3779b97f4a7c15u;
    FILE *f = fopen(path, "rb");
    size_t bytes;

    if (!f || !seed) {
        fprintf(stderr, "%s: cannot be read\n", path);
        free(seed);
        return 1;
    }
    bytes = fread(seed, 1, SEED_BYTES_MAX, f);
    fclose(f);
    LLVMFuzzerTestOneInput(seed, bytes);
    for (int i = 0; i < CHANGES; i++) {
        uint8_t *copy = malloc(bytes + 1); /* its own, so that a sanitizer sees a read past the end */
        size_t left;

        memcpy(copy, seed, bytes);
        left = change(copy, bytes, &x);
        copy = realloc(copy, left > 0 ? left : 1);
        LLVMFuzzerTestOneInput(copy, left);
        free(copy);
    }
    free(seed);
    return 0;
}

int main(int argc, char **argv)
{
    DIR *folder = argc == 2 ? opendir(argv[1]) : NULL;
    int files = 0, failed = 0;

    if (!folder) {
        fprintf(stderr, "usage: %s FOLDER\n", argv[0]);
        return 2;
    }
    for (struct dirent *e = readdir(folder); e; e = readdir(folder)) {
        char path[4096];

        if (e->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "%s/%s", argv[1], e->d_name);
        failed += replay(path);
        files++;
    }
    closedir(folder);
    printf("%d seeds, %d changes each\n", files, CHANGES);
    return failed > 0 || files == 0;
}
