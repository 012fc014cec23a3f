/* First stage. Input: readings, one a line, as "attic 21400" (a place, a space, thousandths of a
 * degree). Lines that are none are dropped; what is left goes to the next stage in one call.
 */
#include "stage.h"

static u8 text[1 << 16];

static i32 is_name(u8 c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-'; }

/* Whether the bytes from `at` to `end` are a reading. */
static i32 is_reading(u32 at, u32 end) {
  u32 name = at;
  while (at < end && is_name(text[at])) at++;
  if (at == name || at - name > 32 || at == end || text[at++] != ' ') return 0;
  if (at < end && text[at] == '-') at++;
  u32 digits = at;
  while (at < end && text[at] >= '0' && text[at] <= '9') at++;
  return at == end && at > digits && at - digits <= 7;
}

EXPORT(ingest) i32 ingest(void) {
  u32 read = input_read(text, sizeof text), kept = 0;
  for (u32 at = 0, end; at < read; at = end + 1) {
    for (end = at; end < read && text[end] != '\n'; end++) {}
    if (!is_reading(at, end)) continue;
    while (at < end) text[kept++] = text[at++];
    text[kept++] = '\n';
  }
  if (!kept) return fail("no reading in the input: send lines such as \"attic 21400\"");
  return hand_on(text, kept);
}
