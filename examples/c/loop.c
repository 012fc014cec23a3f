/* Never ends by itself. */
#include "pollen.h"

EXPORT(loop) i32 loop(void) {
  for (volatile u32 i = 0;; i++) {}
}
