/* Writes its input to the seed's log and returns it: a line for each execution, wherever it ran. With
 * the configuration value "broken" it traps instead.
 */
#include "pollen.h"

static u8 buffer[4096];

EXPORT(journal) i32 journal(void) {
  if (config_get(host_text("broken"))) __builtin_trap();
  u32 read = input_read(buffer, sizeof buffer);
  log_info(host_copy(buffer, read));
  output_bytes(buffer, read);
  return 0;
}
