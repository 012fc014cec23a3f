/* Returns its input. */
#include "pollen.h"

EXPORT(echo) i32 echo(void) {
  u64 length = input_length(), out = host_alloc(length), i = 0;
  for (; i + 8 <= length; i += 8) host_store_u64(out + i, input_load_u64(i));
  for (; i < length; i++) host_store_u8(out + i, input_load_u8(i));
  output_set(out, length);
  return 0;
}
