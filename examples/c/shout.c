/* Returns its input in upper case (ASCII). */
#include "pollen.h"

static i32 shout_input(void) {
  u64 length = input_length(), out = host_alloc(length), i = 0;
  for (; i < length; i++) {
    u32 c = input_load_u8(i);
    host_store_u8(out + i, c >= 'a' && c <= 'z' ? c - 32 : c);
  }
  output_set(out, length);
  return 0;
}

EXPORT(shout) i32 shout(void) { return shout_input(); }
EXPORT(upper) i32 upper(void) { return shout_input(); }
