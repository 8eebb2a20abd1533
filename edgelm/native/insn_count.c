// A plugin of QEMU (TCG plugin API version 1, QEMU 4.2 and later) that counts the instructions a Linux arm64 program executes, by class.
//
// The program marks phases with the system call lseek(-1, 0xED6E, phase), which does nothing else. At each mark one line goes to QEMU's
// log (options -d plugin -D FILE): the instructions since the mark before, such as
//   edgelm {"phase": 3, "total": 557963, "fmla": 3584, "widening": 0, "dot": 140896, "mmla": 0, "sve": 0}
// One thread only: the counters are plain additions. The encodings are those of the Arm Architecture Reference Manual, section C4.1.
//
// The API is declared here because Debian's qemu-user ships no header for it.
#include <inttypes.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

typedef uint64_t qemu_plugin_id_t;
typedef struct qemu_info_t qemu_info_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum qemu_plugin_op { QEMU_PLUGIN_INLINE_ADD_U64 };
typedef void (*tb_translated_t)(qemu_plugin_id_t, struct qemu_plugin_tb *);
typedef void (*syscall_t)(qemu_plugin_id_t, unsigned int, int64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t,
                          uint64_t);

size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, enum qemu_plugin_op, void *, uint64_t);
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, tb_translated_t);
void qemu_plugin_register_vcpu_syscall_cb(qemu_plugin_id_t, syscall_t);
void qemu_plugin_outs(const char *);

EXPORT int qemu_plugin_version = 1;

enum { LSEEK = 62, MARKER = 0xED6E };
enum instruction_class { TOTAL, FMLA, WIDENING, DOT, MMLA, SVE, CLASSES };

static const char *const names[CLASSES] = {"total", "fmla", "widening", "dot", "mmla", "sve"};

static const struct {
  uint32_t mask, value;
  enum instruction_class class;
} encodings[] = {
    {0xBFA0FC00, 0x0E20CC00, FMLA},      // FMLA, vector, float32 and float64
    {0xBF80F400, 0x0F801000, FMLA},      // FMLA, by element
    {0xBFE0FC00, 0x0E400C00, FMLA},      // FMLA, vector, float16
    {0xBFC0F400, 0x0F001000, FMLA},      // FMLA, by element, float16
    {0x9F20FC00, 0x0E208000, WIDENING},  // SMLAL, UMLAL, vector
    {0x9F20FC00, 0x0E20C000, WIDENING},  // SMULL, UMULL, vector
    {0x9F00F400, 0x0F002000, WIDENING},  // SMLAL, UMLAL, by element
    {0xBF00F400, 0x0F00A000, WIDENING},  // SMULL, by element
    {0xBF00F400, 0x2F00A000, WIDENING},  // UMULL, by element
    {0x9FE0FC00, 0x0E809400, DOT},       // SDOT, UDOT, vector
    {0x9FC0F400, 0x0F80E000, DOT},       // SDOT, UDOT, by element
    {0xBFE0FC00, 0x0E809C00, DOT},       // USDOT, vector
    {0xBFC0F400, 0x0F80F000, DOT},       // USDOT, by element
    {0xBFC0F400, 0x0F00F000, DOT},       // SUDOT, by element
    {0xDFE0FC00, 0x4E80A400, MMLA},      // SMMLA, UMMLA
    {0xFFE0FC00, 0x4E80AC00, MMLA},      // USMMLA
    {0xFFE0FC00, 0x6E40EC00, MMLA},      // BFMMLA
    {0x1E000000, 0x04000000, SVE},       // SVE
    {0x9E000000, 0x80000000, SVE},       // SME
};

static uint64_t counts[CLASSES];
static uint64_t at_last_mark[CLASSES];

static enum instruction_class class_of(uint32_t word) {
  for (size_t i = 0; i < sizeof encodings / sizeof *encodings; i++) {
    if ((word & encodings[i].mask) == encodings[i].value) return encodings[i].class;
  }
  return TOTAL;
}

static void on_translated(qemu_plugin_id_t id, struct qemu_plugin_tb *block) {
  (void)id;
  const size_t size = qemu_plugin_tb_n_insns(block);
  uint64_t found[CLASSES] = {0};
  for (size_t i = 0; i < size; i++) {
    uint32_t word;
    memcpy(&word, qemu_plugin_insn_data(qemu_plugin_tb_get_insn(block, i)), sizeof word);
    found[class_of(word)]++;
  }
  found[TOTAL] = size;
  for (int k = 0; k < CLASSES; k++) {
    if (found[k]) qemu_plugin_register_vcpu_tb_exec_inline(block, QEMU_PLUGIN_INLINE_ADD_U64, &counts[k], found[k]);
  }
}

static void on_syscall(qemu_plugin_id_t id, unsigned int vcpu, int64_t number, uint64_t file, uint64_t offset, uint64_t phase, uint64_t a4,
                       uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8) {
  (void)id, (void)vcpu, (void)a4, (void)a5, (void)a6, (void)a7, (void)a8;
  if (number != LSEEK || (int32_t)file != -1 || offset != MARKER) return;
  char line[512];
  int end = snprintf(line, sizeof line, "edgelm {\"phase\": %" PRIu64, phase);
  for (int k = 0; k < CLASSES; k++) {
    end += snprintf(line + end, sizeof line - end, ", \"%s\": %" PRIu64, names[k], counts[k] - at_last_mark[k]);
    at_last_mark[k] = counts[k];
  }
  snprintf(line + end, sizeof line - end, "}\n");
  qemu_plugin_outs(line);
}

EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int count, char **options) {
  (void)info, (void)count, (void)options;
  qemu_plugin_register_vcpu_tb_trans_cb(id, on_translated);
  qemu_plugin_register_vcpu_syscall_cb(id, on_syscall);
  return 0;
}
