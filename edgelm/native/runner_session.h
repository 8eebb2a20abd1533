// The runner's verbs that run a session, as an app does.
#ifndef EDGELM_RUNNER_SESSION_H_
#define EDGELM_RUNNER_SESSION_H_

#include "arguments.h"

namespace edgelm {

// Feeds `--ids`, the first `--prefill` of them at once, the others one by one, and writes the float32 logits after each call to
// `--outputs`. Throws Error.
void run_tokens(const Arguments& arguments);

// Times a session on seeded random tokens, writes the report to `--json` and prints one line. Throws Error.
void run_bench(const Arguments& arguments);

// Prints the device and the runtime as JSON.
void run_info(const Arguments& arguments);

}  // namespace edgelm

#endif  // EDGELM_RUNNER_SESSION_H_
