/* Input: a decimal number n. Output: how many primes are below n. Burns cpu on purpose. */
#include "pollen.h"

EXPORT(primes) i32 primes(void) {
  u8 text[24];
  u32 read = input_read(text, sizeof text), i = 0;
  u64 n = 0, count = 0;
  for (; i < read && text[i] >= '0' && text[i] <= '9'; i++) n = n * 10 + (text[i] - '0');
  if (i == 0) return fail("the input is not a decimal number");
  for (u64 candidate = 2; candidate < n; candidate++) {
    u64 divisor = 2;
    while (divisor * divisor <= candidate && candidate % divisor) divisor++;
    if (divisor * divisor > candidate) count++;
  }
  u32 at = sizeof text;
  do text[--at] = '0' + count % 10; while (count /= 10);
  output_bytes(text + at, sizeof text - at);
  return 0;
}
