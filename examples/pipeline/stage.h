/* A stage of the pipeline hands its result on to the function that its configuration names. */
#ifndef STAGE_H
#define STAGE_H
#include "../c/pollen.h"

/* Calls the URI of the configuration value "next" with these bytes and returns its reply; without
 * such a value the bytes are the output. */
static inline i32 hand_on(const u8 *bytes, u32 length) {
  u64 next = config_get(host_text("next"));
  if (!next) {
    output_bytes(bytes, length);
    return 0;
  }
  u64 reply = pollen_request(next, host_copy(bytes, length));
  if (!reply) return fail("the next stage failed");
  output_set(reply, host_length(reply));
  return 0;
}

/* Writes a number in decimal; the place after it. */
static inline u8 *put_number(u8 *to, long long number) {
  u8 digits[20];
  u32 count = 0;
  u64 rest = number < 0 ? 0 - (u64)number : (u64)number;
  if (number < 0) *to++ = '-';
  do digits[count++] = (u8)('0' + rest % 10); while (rest /= 10);
  while (count) *to++ = digits[--count];
  return to;
}

static inline u8 *put_text(u8 *to, const char *text) {
  while (*text) *to++ = (u8)*text++;
  return to;
}

#endif
