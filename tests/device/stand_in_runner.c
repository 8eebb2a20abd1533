// Stands in for edgelm_runner where a test needs one that fails: `edgelm_runner bench MODEL ... --json OUT`.
// BEHAVIOUR: 0 writes REPORT, 1 fails with a message, 2 crashes, 3 never ends, 4 writes no report.
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#ifndef REPORT
#define REPORT "{\"schema\": \"edgelm-profile/1\"}"
#endif

int main(int argc, char** argv) {
  if (BEHAVIOUR == 1) return fprintf(stderr, "INFO: created\nerror: the model has no signature to run\nINFO: bye\n"), 1;
  if (BEHAVIOUR == 2) raise(SIGSEGV);
  if (BEHAVIOUR == 3) sleep(600);
  if (BEHAVIOUR == 4) return 0;
  FILE* out = fopen(argv[argc - 1], "w");
  return out == NULL || fputs(REPORT, out) < 0 || fclose(out) != 0;
}
