/* Writes its input to the seed's log and returns it: a line for each execution, wherever it ran. */
#include "pollen.h"

static u8 buffer[4096];

EXPORT(journal) i32 journal(void) {
  u32 read = input_read(buffer, sizeof buffer);
  log_info(host_copy(buffer, read));
  output_bytes(buffer, read);
  return 0;
}
