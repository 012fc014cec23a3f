/* Writes its output piece by piece: a streaming caller has each piece while the function still runs.
 *
 *   count   lines "1", "2", ... up to the number in the input; the output itself is "done"
 *   flood   so many MiB as the input says, in blocks of 64 KiB
 *   head    the request head, or "none"
 *   forever lines without end
 *   relay   writes a line and then makes a tail call, which is refused
 */
#include "pollen.h"

#define BLOCK (64 * 1024)

static u64 number(void) {
  u64 value = 0, length = input_length();
  for (u64 i = 0; i < length; i++) {
    u32 digit = input_load_u8(i);
    if (digit < '0' || digit > '9') break;
    value = value * 10 + (digit - '0');
  }
  return value;
}

static void write_line(u64 value) {
  u8 text[21];
  u32 at = sizeof text;
  text[--at] = '\n';
  do text[--at] = (u8)('0' + value % 10); while (value /= 10);
  u64 block = host_copy(text + at, sizeof text - at);
  pollen_write(block);
  host_free(block);
}

EXPORT(count) i32 count(void) {
  u64 most = number();
  for (u64 i = 1; i <= most; i++) write_line(i);
  output_text("done\n");
  return 0;
}

EXPORT(flood) i32 flood(void) {
  u64 blocks = number() * (1024 * 1024 / BLOCK), block = host_alloc(BLOCK);
  for (u64 i = 0; i < BLOCK; i += 8) host_store_u64(block + i, 0x2e2e2e2e2e2e2e2eull);
  for (u64 i = 0; i < blocks; i++) {
    host_store_u64(block, i);
    pollen_write(block);
  }
  return 0;
}

EXPORT(head) i32 head(void) {
  u64 block = pollen_head();
  if (!block) output_text("none");
  else output_set(block, host_length(block));
  return 0;
}

EXPORT(forever) i32 forever(void) {
  for (u64 i = 1;; i++) write_line(i);
}

EXPORT(relay) i32 relay(void) {
  write_line(1);
  output_text("{\"kind\":\"tail_call\",\"uri\":\"pln://seed/echo/echo\",\"input\":\"\"}");
  return 0;
}
