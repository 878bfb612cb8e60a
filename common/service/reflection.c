/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reflection.c - names to .proto files, straight from protoc's own bytes.
 *
 * The descriptor set is a FileDescriptorSet: field 1, again and again, is one FileDescriptorProto. Its bytes are sent as
 * they lie there, so nothing is decoded but the names, to know which file holds which symbol:
 *
 *   file     1 name, 2 package, 3 dependency, 4 message, 5 enum, 6 service
 *   message  1 name, 2 field, 3 nested message, 4 nested enum        service  1 name, 2 method        others  1 name
 *
 * v1 and v1alpha are the same on the wire: one handler serves both.
 *
 * https://github.com/grpc/grpc/blob/master/doc/server-reflection.md, google/protobuf/descriptor.proto
 */
#include "common/service/reflection.h"

#include "common/base/arena.h"
#include "common/base/bytes.h"
#include "common/rpc/rpc_message.h"
#include "proto/descriptors.h"
#include "proto/grpc/reflection/v1/reflection.pb-c.h"

#include <stdlib.h>
#include <string.h>

typedef Grpc__Reflection__V1__ServerReflectionRequest Request;
typedef Grpc__Reflection__V1__ServerReflectionResponse Response;

enum { FILES_MAX = 64, SERVICES_MAX = 64, DEPENDENCIES_MAX = 32 };
enum { NOT_FOUND = 5, UNIMPLEMENTED = 12 }; /* google.rpc.Code */

struct proto_file {
    const char *name;
    struct rpc_span raw;
    const char *dependencies[DEPENDENCIES_MAX];
    size_t dependency_count;
};

struct symbol {
    struct symbol *next;
    const char *name; /* with its package */
    const struct proto_file *file;
};

/* owned by: main; read only after open */
struct reflection {
    struct arena arena;
    struct proto_file files[FILES_MAX];
    size_t file_count;
    struct symbol *symbols;
    const char *services[SERVICES_MAX];
    size_t service_count;
};

static const char *field_text(struct reflection *r, const struct rpc_field *f)
{
    return arena_strndup(&r->arena, (const char *)f->data, f->bytes);
}

/* The text of field 1 of some message: its name. */
static const char *name_of(struct reflection *r, const struct rpc_field *message)
{
    struct cursor c = cursor_on(message->data, message->bytes);
    struct rpc_field f;

    while (rpc_field_next(&c, &f))
        if (f.number == 1 && f.wire_type == 2)
            return field_text(r, &f);
    return "";
}

static const char *symbol_add(struct reflection *r, const struct proto_file *file, const char *scope, const char *name)
{
    struct symbol *s = (struct symbol *)arena_alloc(&r->arena, sizeof(*s));

    s->name = scope[0] != '\0' ? arena_printf(&r->arena, "%s.%s", scope, name) : name;
    s->file = file;
    s->next = r->symbols;
    r->symbols = s;
    return s->name;
}

static void service_index(struct reflection *r, const struct proto_file *file, const char *scope,
                          const struct rpc_field *service)
{
    const char *full = symbol_add(r, file, scope, name_of(r, service));
    struct cursor c = cursor_on(service->data, service->bytes);
    struct rpc_field f;

    while (rpc_field_next(&c, &f))
        if (f.number == 2 && f.wire_type == 2)
            symbol_add(r, file, full, name_of(r, &f));
}

/* The set is our own, made by protoc: its depth is that of our messages. */
static void message_index(struct reflection *r, const struct proto_file *file, const char *scope,
                          const struct rpc_field *message)
{
    const char *full = symbol_add(r, file, scope, name_of(r, message));
    struct cursor c = cursor_on(message->data, message->bytes);
    struct rpc_field f;

    while (rpc_field_next(&c, &f)) {
        if (f.wire_type != 2)
            continue;
        if (f.number == 3)
            message_index(r, file, full, &f);
        else if (f.number == 2 || f.number == 4)
            symbol_add(r, file, full, name_of(r, &f));
    }
}

static enum status file_index(struct reflection *r, const struct rpc_field *raw, struct err *err)
{
    struct proto_file *file = &r->files[r->file_count];
    struct cursor c = cursor_on(raw->data, raw->bytes), again = c;
    const char *package = "";
    struct rpc_field f;

    if (r->file_count == FILES_MAX)
        return err_set(err, ST_EINTERNAL, "more than %d proto files", FILES_MAX);
    r->file_count++;
    file->raw.data = raw->data;
    file->raw.bytes = raw->bytes;
    while (rpc_field_next(&c, &f)) {
        if (f.number == 1)
            file->name = field_text(r, &f);
        else if (f.number == 2)
            package = field_text(r, &f);
        else if (f.number == 3 && file->dependency_count < DEPENDENCIES_MAX)
            file->dependencies[file->dependency_count++] = field_text(r, &f);
    }
    while (rpc_field_next(&again, &f)) {
        if (f.number == 4)
            message_index(r, file, package, &f);
        else if (f.number == 5)
            symbol_add(r, file, package, name_of(r, &f));
        else if (f.number == 6)
            service_index(r, file, package, &f);
    }
    return c.bad || file->name == NULL ? err_set(err, ST_EINTERNAL, "the descriptor set is damaged") : ST_OK;
}

enum status reflection_open(struct reflection **out, struct err *err)
{
    struct reflection *r = (struct reflection *)mem_zero(1, sizeof(*r));
    struct cursor c = cursor_on(proto_descriptors, (size_t)(proto_descriptors_end - proto_descriptors));
    struct rpc_field f;
    enum status st = ST_OK;

    while (st == ST_OK && rpc_field_next(&c, &f))
        if (f.number == 1 && f.wire_type == 2)
            st = file_index(r, &f, err);
    if (st == ST_OK && c.bad)
        st = err_set(err, ST_EINTERNAL, "the descriptor set is damaged");
    if (st != ST_OK) {
        reflection_close(r);
        return st;
    }
    *out = r;
    return ST_OK;
}

void reflection_close(struct reflection *r)
{
    if (r == NULL)
        return;
    arena_fini(&r->arena);
    free(r);
}

/* Answers. */

static const struct proto_file *file_named(const struct reflection *r, const char *name)
{
    for (size_t i = 0; i < r->file_count; i++)
        if (strcmp(r->files[i].name, name) == 0)
            return &r->files[i];
    return NULL;
}

static const struct proto_file *file_with(const struct reflection *r, const char *symbol)
{
    for (const struct symbol *s = r->symbols; s != NULL; s = s->next)
        if (strcmp(s->name, symbol) == 0)
            return s->file;
    return NULL;
}

/* The file, then all it imports, each once. */
static void files_gather(const struct reflection *r, const struct proto_file *file, ProtobufCBinaryData *list,
                         size_t *count)
{
    for (size_t i = 0; i < *count; i++)
        if (list[i].data == file->raw.data)
            return;
    list[*count].data = (uint8_t *)file->raw.data;
    list[(*count)++].len = file->raw.bytes;
    for (size_t i = 0; i < file->dependency_count; i++) {
        const struct proto_file *next = file_named(r, file->dependencies[i]);

        if (next != NULL)
            files_gather(r, next, list, count);
    }
}

static Response response_to(const Request *q)
{
    Response out = GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__INIT;

    out.valid_host = q->host;
    out.original_request = (Request *)q;
    return out;
}

static enum status answer_error(struct rpc_call *call, const Request *q, int code, const char *sentence)
{
    Grpc__Reflection__V1__ErrorResponse e = GRPC__REFLECTION__V1__ERROR_RESPONSE__INIT;
    Response out = response_to(q);

    e.error_code = code;
    e.error_message = (char *)sentence;
    out.message_response_case = GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_ERROR_RESPONSE;
    out.error_response = &e;
    return rpc_call_send(call, &out.base);
}

static enum status answer_file(const struct reflection *r, struct rpc_call *call, const Request *q,
                               const struct proto_file *file)
{
    Grpc__Reflection__V1__FileDescriptorResponse files = GRPC__REFLECTION__V1__FILE_DESCRIPTOR_RESPONSE__INIT;
    ProtobufCBinaryData list[FILES_MAX];
    Response out = response_to(q);

    if (file == NULL)
        return answer_error(call, q, NOT_FOUND, "no such file or symbol");
    files_gather(r, file, list, &files.n_file_descriptor_proto);
    files.file_descriptor_proto = list;
    out.message_response_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_FILE_DESCRIPTOR_RESPONSE;
    out.file_descriptor_response = &files;
    return rpc_call_send(call, &out.base);
}

static enum status answer_list(const struct reflection *r, struct rpc_call *call, const Request *q)
{
    Grpc__Reflection__V1__ListServiceResponse list = GRPC__REFLECTION__V1__LIST_SERVICE_RESPONSE__INIT;
    Grpc__Reflection__V1__ServiceResponse services[SERVICES_MAX], *at[SERVICES_MAX];
    Response out = response_to(q);

    for (size_t i = 0; i < r->service_count; i++) {
        at[i] = &services[i];
        grpc__reflection__v1__service_response__init(at[i]);
        at[i]->name = (char *)r->services[i];
    }
    list.n_service = r->service_count;
    list.service = at;
    out.message_response_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_LIST_SERVICES_RESPONSE;
    out.list_services_response = &list;
    return rpc_call_send(call, &out.base);
}

/* Our messages have no extensions: a type we have has none, a type we do not have is not found. */
static enum status answer_extensions(const struct reflection *r, struct rpc_call *call, const Request *q)
{
    Grpc__Reflection__V1__ExtensionNumberResponse none = GRPC__REFLECTION__V1__EXTENSION_NUMBER_RESPONSE__INIT;
    Response out = response_to(q);

    if (file_with(r, q->all_extension_numbers_of_type) == NULL)
        return answer_error(call, q, NOT_FOUND, "no such type");
    none.base_type_name = q->all_extension_numbers_of_type;
    out.message_response_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_ALL_EXTENSION_NUMBERS_RESPONSE;
    out.all_extension_numbers_response = &none;
    return rpc_call_send(call, &out.base);
}

static enum status answer(const struct reflection *r, struct rpc_call *call, const Request *q)
{
    switch (q->message_request_case) {
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_BY_FILENAME:
        return answer_file(r, call, q, file_named(r, q->file_by_filename));
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_CONTAINING_SYMBOL:
        return answer_file(r, call, q, file_with(r, q->file_containing_symbol));
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_LIST_SERVICES:
        return answer_list(r, call, q);
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_ALL_EXTENSION_NUMBERS_OF_TYPE:
        return answer_extensions(r, call, q);
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_CONTAINING_EXTENSION:
        return answer_error(call, q, NOT_FOUND, "no such extension");
    default:
        return answer_error(call, q, UNIMPLEMENTED, "nothing was asked");
    }
}

static void request_free(void *user)
{
    rpc_message_free((ProtobufCMessage *)user);
}

/* The next question is read only when the answer to the last one was taken; one that waits is the call's user. */
static void on_message(struct rpc_call *call, void *owner, const ProtobufCMessage *msg)
{
    if (answer((const struct reflection *)owner, call, (const Request *)msg) == ST_AGAIN) {
        rpc_call_keep(call);
        rpc_call_set_user(call, (void *)msg, request_free);
        return;
    }
    rpc_call_want(call);
}

static void on_room(struct rpc_call *call, void *owner)
{
    Request *waiting = (Request *)rpc_call_user(call);

    if (waiting == NULL || answer((const struct reflection *)owner, call, waiting) == ST_AGAIN)
        return;
    rpc_call_set_user(call, NULL, NULL);
    request_free(waiting);
    rpc_call_want(call);
}

static void on_half_close(struct rpc_call *call, void *owner)
{
    (void)owner;
    rpc_call_finish(call, ST_OK, NULL, -1);
}

static const struct rpc_events events = { .message = on_message, .half_close = on_half_close, .room = on_room };

/* "/package.Service/Method" -> the service, once. */
static void service_note(struct reflection *r, const char *method)
{
    const char *slash = strchr(method + 1, '/');
    size_t bytes = slash != NULL ? (size_t)(slash - method - 1) : strlen(method + 1);

    for (size_t i = 0; i < r->service_count; i++)
        if (strlen(r->services[i]) == bytes && memcmp(r->services[i], method + 1, bytes) == 0)
            return;
    if (r->service_count < SERVICES_MAX)
        r->services[r->service_count++] = arena_strndup(&r->arena, method + 1, bytes);
}

void reflection_add(struct reflection *r, struct rpc_server *s)
{
    const ProtobufCMessageDescriptor *type = &grpc__reflection__v1__server_reflection_request__descriptor;
    const struct rpc_method methods[] = {
        { "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", RPC_BIDI, type, false, false, &events, r },
        { "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", RPC_BIDI, type, false, false, &events, r },
    };

    rpc_server_add(s, methods, ARRAY_LEN(methods));
    for (size_t i = 0; rpc_server_method(s, i) != NULL; i++)
        service_note(r, rpc_server_method(s, i));
}
