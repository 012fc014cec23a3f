/* Takes memory, variables or log lines until the host says no. */
#include "pollen.h"

static u64 number(void) {
  u8 text[24];
  u32 read = input_read(text, sizeof text);
  u64 n = 0;
  for (u32 i = 0; i < read && text[i] >= '0' && text[i] <= '9'; i++) n = n * 10 + (text[i] - '0');
  return n;
}

/* Grows linear memory a page at a time and dies of the first refusal. */
EXPORT(linear) i32 linear(void) {
  for (;;)
    if (__builtin_wasm_memory_grow(0, 1) == (__SIZE_TYPE__)-1) __builtin_trap();
}

/* Grows by the number of pages in the input and returns; "refused" when it may not. */
EXPORT(grow) i32 grow(void) {
  output_text(__builtin_wasm_memory_grow(0, number()) == (__SIZE_TYPE__)-1 ? "refused" : "grown");
  return 0;
}

/* Takes host heap, 64 KiB at a time, and dies of the first refusal. */
EXPORT(heap) i32 heap(void) {
  for (;;)
    if (!host_alloc(65536)) __builtin_trap();
}

/* Keeps a variable of 1 MiB and one more byte. */
EXPORT(vars) i32 vars(void) {
  var_set(host_text("big"), host_alloc(1 << 20));
  var_set(host_text("more"), host_alloc(1));
  return 0;
}

/* Writes the number of log lines in the input, 32 bytes each. */
EXPORT(log) i32 log_flood(void) {
  u64 line = host_text("0123456789abcdef0123456789abcdef");
  for (u64 n = number(); n; n--) pollen_log(1, line);
  return 0;
}

/* Returns the number of bytes in the input. */
EXPORT(output) i32 output(void) {
  u64 n = number();
  output_set(host_alloc(n), n);
  return 0;
}

/* Counts the calls that this instance served, in a variable of its memory. */
EXPORT(count) i32 count(void) {
  static u8 calls = 0;
  u8 digit = '0' + (++calls % 10);
  output_bytes(&digit, 1);
  return 0;
}

/* Counts the calls in a variable; variables live as long as the instance. */
EXPORT(visits) i32 visits(void) {
  u64 old = var_get(host_text("visits"));
  u8 digit = old ? (u8)host_load_u8(old) + 1 : '1';
  var_set(host_text("visits"), host_copy(&digit, 1));
  output_bytes(&digit, 1);
  return 0;
}
