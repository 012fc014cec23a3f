/* Fails in the ways a guest can fail. */
#include "pollen.h"

EXPORT(trap) i32 trap(void) { __builtin_trap(); }
EXPORT(error) i32 error(void) { return fail("this function always fails"); }

/* The output is delivered and the return code is 7: a status, not a failure. */
EXPORT(status) i32 status(void) {
  output_text("seven");
  return 7;
}
