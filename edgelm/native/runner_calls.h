// The runner's verb `calls`: one signature on inputs from a file.
#ifndef EDGELM_RUNNER_CALLS_H_
#define EDGELM_RUNNER_CALLS_H_

#include "arguments.h"

namespace edgelm {

// Runs `--signature` on each call in `--inputs` `--repeat` times and writes `--outputs`. A call is the raw bytes of all inputs in the
// order of the signature, packed; outputs likewise. Nothing is kept between calls. Throws Error.
void run_calls(const Arguments& arguments);

}  // namespace edgelm

#endif  // EDGELM_RUNNER_CALLS_H_
