/* Calls on: the input is a URI, a line end and the body for it. With no URI before the line end,
 * the one of the configuration value "next" is taken. Also tail calls, and who is calling.
 */
#include "pollen.h"

static u8 buffer[1 << 16];

EXPORT(relay) i32 relay(void) {
  u32 read = input_read(buffer, sizeof buffer), end = 0;
  while (end < read && buffer[end] != '\n') end++;
  u64 uri = end ? host_copy(buffer, end) : config_get(host_text("next"));
  u64 body = end + 1 < read ? host_copy(buffer + end + 1, read - end - 1) : 0;
  u64 reply = pollen_request(uri, body);
  if (!reply) return fail("the request failed");
  output_set(reply, host_length(reply));
  return 0;
}

/* The input is a URI; the caller's node is asked to go on there with the input "on". */
EXPORT(tail) i32 tail(void) {
  static const char head[] = "{\"kind\":\"tail_call\",\"uri\":\"", rest[] = "\",\"input\":\"b24=\"}\n";
  u32 at = sizeof head - 1;
  __builtin_memcpy(buffer, head, at);
  at += input_read(buffer + at, 4096);
  __builtin_memcpy(buffer + at, rest, sizeof rest - 1);
  output_bytes(buffer, at + sizeof rest - 1);
  return 0;
}

/* A marker that is cut off. */
EXPORT(garbage) i32 garbage(void) {
  output_text("{\"kind\":\"tail_call\",\"uri\":\"pln://se");
  return 0;
}

EXPORT(caller_info) i32 caller_info(void) {
  u64 info = pollen_caller_info();
  output_set(info, host_length(info));
  return 0;
}
