/* The imports of a Pollen seed (the Extism ABI and the mesh), for C without a libc.
 *
 * Offsets are handles into the host's heap; 0 is none. Strings are not terminated by 0.
 * Build: see ../build.sh.
 */
#ifndef POLLEN_H
#define POLLEN_H

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef int i32;

#define ENV(name) __attribute__((import_module("extism:host/env"), import_name(#name))) extern
#define USER(name) __attribute__((import_module("extism:host/user"), import_name(#name))) extern
#define EXPORT(name) __attribute__((export_name(#name)))

ENV(alloc) u64 host_alloc(u64 length);
ENV(free) void host_free(u64 handle);
ENV(length) u64 host_length(u64 handle);
ENV(load_u8) u32 host_load_u8(u64 offset);
ENV(load_u64) u64 host_load_u64(u64 offset);
ENV(store_u8) void host_store_u8(u64 offset, u32 value);
ENV(store_u64) void host_store_u64(u64 offset, u64 value);
ENV(input_length) u64 input_length(void);
ENV(input_load_u8) u32 input_load_u8(u64 offset);
ENV(input_load_u64) u64 input_load_u64(u64 offset);
ENV(output_set) void output_set(u64 offset, u64 length);
ENV(error_set) void error_set(u64 handle);
ENV(config_get) u64 config_get(u64 key);
ENV(var_get) u64 var_get(u64 key);
ENV(var_set) void var_set(u64 key, u64 value);
ENV(log_info) void log_info(u64 message);
ENV(http_request) u64 http_request(u64 request, u64 body);
USER(pollen_log) void pollen_log(u64 level, u64 message);
USER(pollen_request) u64 pollen_request(u64 uri, u64 input);
USER(pollen_caller_info) u64 pollen_caller_info(void);
USER(pollen_head) u64 pollen_head(void);
USER(pollen_write) u64 pollen_write(u64 block);

static inline u32 text_length(const char *text) {
  u32 length = 0;
  while (text[length]) length++;
  return length;
}

/* A host block with a copy of these bytes. */
static inline u64 host_copy(const u8 *bytes, u64 length) {
  u64 handle = host_alloc(length), i = 0;
  for (; i + 8 <= length; i += 8) host_store_u64(handle + i, *(const u64 *)(bytes + i));
  for (; i < length; i++) host_store_u8(handle + i, bytes[i]);
  return handle;
}

static inline u64 host_text(const char *text) { return host_copy((const u8 *)text, text_length(text)); }

/* Copies at most `room` bytes of the input into `to`; the number copied. */
static inline u32 input_read(u8 *to, u32 room) {
  u64 length = input_length(), i = 0;
  if (length > room) length = room;
  for (; i + 8 <= length; i += 8) *(u64 *)(to + i) = input_load_u64(i);
  for (; i < length; i++) to[i] = (u8)input_load_u8(i);
  return (u32)length;
}

static inline void output_bytes(const u8 *bytes, u64 length) {
  output_set(host_copy(bytes, length), length);
}

static inline void output_text(const char *text) { output_bytes((const u8 *)text, text_length(text)); }

static inline i32 fail(const char *message) {
  error_set(host_text(message));
  return 1;
}

#endif
