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

/* The marker that asks the caller's node to go on at the URI in the buffer, with the input "on". */
static const char head[] = "{\"kind\":\"tail_call\",\"uri\":\"", rest[] = "\",\"input\":\"b24=\"}\n";
enum { URI = sizeof head - 1 };

static i32 go_on(u32 length) {
  __builtin_memcpy(buffer, head, URI);
  __builtin_memcpy(buffer + URI + length, rest, sizeof rest - 1);
  output_bytes(buffer, URI + length + sizeof rest - 1);
  return 0;
}

/* The input is the URI. */
EXPORT(tail) i32 tail(void) { return go_on(input_read(buffer + URI, 4096)); }

/* The configuration value "next" is the URI, whatever the input. */
EXPORT(tail_next) i32 tail_next(void) {
  u64 uri = config_get(host_text("next")), length = host_length(uri);
  if (length > 4096) return fail("the configuration value is too long");
  for (u64 i = 0; i < length; i++) buffer[URI + i] = (u8)host_load_u8(uri + i);
  return go_on((u32)length);
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

/* Decimal digits, then a line end and a URI: asks the URI so often, whatever becomes of it, and then
 * hands the call on to it.
 */
EXPORT(spend) i32 spend(void) {
  u32 read = input_read(buffer + URI, 4096), at = URI, times = 0;
  while (at < URI + read && buffer[at] != '\n') times = 10 * times + buffer[at++] - '0';
  u32 length = URI + read - ++at;
  u64 uri = host_copy(buffer + at, length);
  while (times--) pollen_request(uri, 0);
  __builtin_memmove(buffer + URI, buffer + at, length);
  return go_on(length);
}

/* The input is a request for http_request, as JSON: {"url": "http://127.0.0.1/"}. */
EXPORT(get) i32 get(void) {
  u32 read = input_read(buffer, sizeof buffer);
  u64 reply = http_request(host_copy(buffer, read), 0);
  output_set(reply, host_length(reply));
  return 0;
}
