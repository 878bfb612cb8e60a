/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rpc_tls.c - credentials from PEM files; a server's are read again when the files change.
 *
 * gRPC asks the fetcher at every handshake. It compares the files' times and sizes and answers "unchanged" in most
 * cases, so a certificate is renewed by replacing files; connections that stand keep theirs. New files that cannot be
 * read leave the old ones in force (gRPC logs it).
 */
#include "common/base/arena.h"
#include "common/base/file.h"
#include "common/rpc/rpc_inside.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { TLS_FILES = 3 };

/* What a file looked like when it was read. */
struct file_mark {
    int64_t seconds, nanos, bytes;
};

/* owned by: the server; the fetcher runs on gRPC's threads, one handshake at a time or several: `lock` */
struct tls_state {
    struct rpc_tls tls;
    pthread_mutex_t lock;
    struct file_mark marks[TLS_FILES];
};

static struct file_mark mark_of(const char *path)
{
    struct file_mark mark = { 0, 0, -1 };
    struct stat st;

    if (path != NULL && stat(path, &st) == 0) {
        mark.seconds = st.st_mtim.tv_sec;
        mark.nanos = st.st_mtim.tv_nsec;
        mark.bytes = st.st_size;
    }
    return mark;
}

/* The file as a string; NULL path gives NULL. */
static enum status pem_read(char **out, const char *path, struct err *err)
{
    struct file file = { 0 };
    enum status st;

    *out = NULL;
    if (path == NULL)
        return ST_OK;
    st = file_open(&file, path, err);
    if (st != ST_OK)
        return ST_EINVAL;
    *out = (char *)mem_zero(1, file.bytes + 1);
    if (file.bytes > 0)
        memcpy(*out, file.data, file.bytes);
    file_close(&file);
    if (strstr(*out, "-----BEGIN ") != NULL)
        return ST_OK;
    free(*out);
    *out = NULL;
    return err_set(err, ST_EINVAL, "%s: not a PEM file", path);
}

/* Certificate, key and CA; all NULL on failure. */
static enum status pem_read_all(char *pem[TLS_FILES], const struct rpc_tls *tls, struct err *err)
{
    enum status st = pem_read(&pem[0], tls->cert_path, err);

    pem[1] = pem[2] = NULL;
    if (st == ST_OK)
        st = pem_read(&pem[1], tls->key_path, err);
    if (st == ST_OK)
        st = pem_read(&pem[2], tls->ca_path, err);
    for (int i = 0; i < TLS_FILES && st != ST_OK; i++) {
        free(pem[i]);
        pem[i] = NULL;
    }
    return st;
}

static void pem_free(char *pem[TLS_FILES])
{
    for (int i = 0; i < TLS_FILES; i++)
        free(pem[i]);
}

static grpc_ssl_certificate_config_reload_status tls_fetch(void *user, grpc_ssl_server_certificate_config **out)
{
    struct tls_state *s = (struct tls_state *)user;
    struct file_mark now[TLS_FILES] = { mark_of(s->tls.cert_path), mark_of(s->tls.key_path), mark_of(s->tls.ca_path) };
    grpc_ssl_certificate_config_reload_status answer = GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_UNCHANGED;
    char *pem[TLS_FILES];

    pthread_mutex_lock(&s->lock);
    if (memcmp(now, s->marks, sizeof(now)) != 0) {
        answer = GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_FAIL;
        if (pem_read_all(pem, &s->tls, NULL) == ST_OK) {
            grpc_ssl_pem_key_cert_pair pair = { .private_key = pem[1], .cert_chain = pem[0] };

            /* gRPC insists on authorities; where no client is asked for a certificate it does not look at them */
            *out = grpc_ssl_server_certificate_config_create(pem[2] != NULL ? pem[2] : pem[0], &pair, 1);
            pem_free(pem);
            memcpy(s->marks, now, sizeof(now));
            answer = GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_NEW;
        }
    }
    pthread_mutex_unlock(&s->lock);
    return answer;
}

static bool tls_off(const struct rpc_tls *tls)
{
    return tls->cert_path == NULL && tls->key_path == NULL && tls->ca_path == NULL;
}

enum status tls_server(grpc_server_credentials **out, struct tls_state **state, const struct rpc_tls *tls,
                       struct err *err)
{
    grpc_ssl_server_credentials_options *options;
    struct tls_state *s;
    char *pem[TLS_FILES];
    enum status st;

    *state = NULL;
    if (tls_off(tls)) {
        *out = grpc_insecure_server_credentials_create();
        return ST_OK;
    }
    if (tls->cert_path == NULL || tls->key_path == NULL)
        return err_set(err, ST_EINVAL, "TLS needs both a certificate and its key");
    st = pem_read_all(pem, tls, err);
    if (st != ST_OK)
        return st;
    pem_free(pem);
    s = (struct tls_state *)mem_zero(1, sizeof(*s));
    s->tls = *tls;
    pthread_mutex_init(&s->lock, NULL);
    options = grpc_ssl_server_credentials_create_options_using_config_fetcher(
        tls->ca_path != NULL ? GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY
                             : GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE,
        tls_fetch, s);
    *out = grpc_ssl_server_credentials_create_with_options(options);
    *state = s;
    return ST_OK;
}

void tls_state_free(struct tls_state *s)
{
    if (s == NULL)
        return;
    pthread_mutex_destroy(&s->lock);
    free(s);
}

enum status tls_channel(grpc_channel_credentials **out, const struct rpc_tls *tls, struct err *err)
{
    grpc_ssl_pem_key_cert_pair pair;
    char *pem[TLS_FILES];
    enum status st;

    if (tls_off(tls)) {
        *out = grpc_insecure_credentials_create();
        return ST_OK;
    }
    if (tls->ca_path == NULL)
        return err_set(err, ST_EINVAL, "TLS to a server needs the file of the authorities that are believed");
    if ((tls->cert_path == NULL) != (tls->key_path == NULL))
        return err_set(err, ST_EINVAL, "TLS needs both a certificate and its key");
    st = pem_read_all(pem, tls, err);
    if (st != ST_OK)
        return st;
    pair.cert_chain = pem[0];
    pair.private_key = pem[1];
    *out = grpc_ssl_credentials_create_ex(pem[2], pem[0] != NULL ? &pair : NULL, NULL, NULL);
    pem_free(pem);
    return *out != NULL ? ST_OK : err_set(err, ST_EINVAL, "%s: cannot be used", tls->ca_path);
}
