/* An ordinary program, with nothing of Pollen in it: prints the lines of its input that hold a text.
 *
 *   lines [-v] TEXT      -v: those that do not
 *
 * Exit code: 0 when there was one, 1 when there was none, 2 when it was called wrongly.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv) {
  int inverted = argc > 1 && strcmp(argv[1], "-v") == 0, found = 0;
  if (argc != 2 + inverted) {
    fprintf(stderr, "usage: %s [-v] TEXT\n", argv[0]);
    return 2;
  }
  char *line = NULL;
  size_t room = 0;
  ssize_t length;
  unsigned long read = 0;
  while ((length = getline(&line, &room, stdin)) > 0) {
    read++;
    if ((strstr(line, argv[argc - 1]) != NULL) == inverted) continue;
    fwrite(line, 1, (size_t)length, stdout);
    found = 1;
  }
  fprintf(stderr, "read %lu lines\n", read);
  return found ? 0 : 1;
}
