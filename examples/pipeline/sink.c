/* Last stage. Keeps the line that it is given and says so. What an instance keeps lives as long as
 * the instance: a real sink would send it to a database (http_request).
 */
#include "stage.h"

EXPORT(sink) i32 sink(void) {
  u8 answer[256], *to = put_text(answer, "kept: ");
  u32 read = input_read(to, 200);
  if (!read) return fail("nothing to keep: call ingest");
  var_set(host_text("last"), host_copy(to, read));
  output_bytes(answer, (u32)(to - answer) + read);
  return 0;
}

EXPORT(last) i32 last(void) {
  u64 line = var_get(host_text("last"));
  output_set(line, host_length(line));
  return 0;
}
