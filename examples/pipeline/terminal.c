/* Second stage, the one that works. Input: the readings of ingest. Smooths their values as often
 * as the configuration value "rounds" says (once without it) and hands on one line about them.
 */
#include "stage.h"

static u8 text[1 << 16];
static i32 values[1 << 14];

static u32 rounds(void) {
  u64 value = config_get(host_text("rounds")), length = host_length(value);
  u32 number = value ? 0 : 1;
  for (u64 i = 0; i < length && i < 8; i++) number = number * 10 + (host_load_u8(value + i) - '0');
  return number;
}

/* The values of all lines; how many. */
static u32 read_values(u32 read) {
  u32 count = 0;
  for (u32 at = 0; at < read && count < sizeof values / sizeof *values; at++) {
    while (at < read && text[at] != ' ') at++;
    i32 number = 0, negative = at + 1 < read && text[at + 1] == '-';
    at += negative ? 2 : 1;
    for (; at < read && text[at] != '\n'; at++) number = number * 10 + (text[at] - '0');
    values[count++] = negative ? -number : number;
  }
  return count;
}

EXPORT(terminal) i32 terminal(void) {
  u32 count = read_values(input_read(text, sizeof text));
  if (!count) return fail("no readings: call ingest");
  for (u32 left = rounds(); left > 0; left--)
    for (u32 i = 1; i < count; i++) values[i] = (3 * values[i] + values[i - 1]) / 4;
  i32 least = values[0], most = values[0];
  long long sum = 0;
  for (u32 i = 0; i < count; i++) {
    if (values[i] < least) least = values[i];
    if (values[i] > most) most = values[i];
    sum += values[i];
  }
  u8 line[128], *to = line;
  to = put_number(put_text(to, "readings "), count);
  to = put_number(put_text(to, ", least "), least);
  to = put_number(put_text(to, ", mean "), sum / count);
  to = put_number(put_text(to, ", most "), most);
  return hand_on(line, (u32)(to - line));
}
