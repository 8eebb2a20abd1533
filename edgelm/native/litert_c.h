// The part of LiteRT's C API that edgelm uses, as libLiteRt.so 2.1.0 and 2.1.2 export it; 2.1.2 loads 4-bit blocks.
//
// The complete headers are litert/c/*.h of github.com/google-ai-edge/LiteRT; no package ships them. Declaring the few functions here
// lets the library of any LiteRT package (Python wheel, Android AAR) be linked without its sources. Handles are opaque; every
// function that returns LiteRtStatus gives 0 when all went well.
#ifndef EDGELM_LITERT_C_H_
#define EDGELM_LITERT_C_H_

#ifndef EDGELM_LITERT_VERSION
#define EDGELM_LITERT_VERSION "2.1.0"  // of the package whose library is linked
#endif

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct LiteRtEnvironmentT* LiteRtEnvironment;
typedef struct LiteRtModelT* LiteRtModel;
typedef struct LiteRtOptionsT* LiteRtOptions;
typedef struct LiteRtOpaqueOptionsT* LiteRtOpaqueOptions;
typedef struct LiteRtCpuOptionsT* LiteRtCpuOptions;
typedef struct LiteRtCompiledModelT* LiteRtCompiledModel;
typedef struct LiteRtTensorBufferT* LiteRtTensorBuffer;

typedef int LiteRtStatus;
typedef size_t LiteRtParamIndex;

enum { kLiteRtStatusOk = 0, kLiteRtStatusErrorUnsupported = 5 };
enum { kLiteRtHwAcceleratorCpu = 1 };
enum { kLiteRtHostMemoryAlignment = 64 };  // what LiteRtCreateTensorBufferFromHostMemory asks of an address

typedef enum {
  kLiteRtElementTypeFloat32 = 1,
  kLiteRtElementTypeInt32 = 2,
  kLiteRtElementTypeUInt8 = 3,
  kLiteRtElementTypeInt64 = 4,
  kLiteRtElementTypeBool = 6,
  kLiteRtElementTypeInt16 = 7,
  kLiteRtElementTypeInt8 = 9,
  kLiteRtElementTypeFloat16 = 10,
} LiteRtElementType;

// litert_layout.h and litert_model_types.h.
typedef struct {
  unsigned int rank : 7;
  unsigned int has_strides : 1;
  int32_t dimensions[8];
  uint32_t strides[8];
} LiteRtLayout;

typedef struct {
  LiteRtElementType element_type;
  LiteRtLayout layout;
} LiteRtRankedTensorType;

// litert_common.h.
const char* LiteRtGetStatusString(LiteRtStatus status);

// litert_environment.h.
LiteRtStatus LiteRtCreateEnvironment(int num_options, const void* options, LiteRtEnvironment* environment);
void LiteRtDestroyEnvironment(LiteRtEnvironment environment);

// litert_model.h.
LiteRtStatus LiteRtCreateModelFromBuffer(const void* data, size_t bytes, LiteRtModel* model);  // the data must outlive the model
void LiteRtDestroyModel(LiteRtModel model);

// litert_options.h, litert_opaque_options.h and options/litert_cpu_options.h. Options own what is added to them; the string of the
// cache path must outlive them.
LiteRtStatus LiteRtCreateOptions(LiteRtOptions* options);
void LiteRtDestroyOptions(LiteRtOptions options);
LiteRtStatus LiteRtSetOptionsHardwareAccelerators(LiteRtOptions options, int accelerators);
LiteRtStatus LiteRtAddOpaqueOptions(LiteRtOptions options, LiteRtOpaqueOptions added);
LiteRtStatus LiteRtCreateCpuOptions(LiteRtOpaqueOptions* options);
LiteRtStatus LiteRtFindCpuOptions(LiteRtOpaqueOptions options, LiteRtCpuOptions* cpu_options);
LiteRtStatus LiteRtSetCpuOptionsNumThread(LiteRtCpuOptions options, int threads);
LiteRtStatus LiteRtSetCpuOptionsXnnPackWeightCachePath(LiteRtCpuOptions options, const char* path);

// litert_compiled_model.h. Buffers are given in the order of the signature's subgraph.
LiteRtStatus LiteRtCreateCompiledModel(LiteRtEnvironment environment, LiteRtModel model, LiteRtOptions options,
                                       LiteRtCompiledModel* compiled_model);
void LiteRtDestroyCompiledModel(LiteRtCompiledModel compiled_model);
LiteRtStatus LiteRtRunCompiledModel(LiteRtCompiledModel compiled_model, LiteRtParamIndex signature_index, size_t num_inputs,
                                    LiteRtTensorBuffer* inputs, size_t num_outputs, LiteRtTensorBuffer* outputs);

// litert_tensor_buffer.h. Without a deallocator the memory stays the caller's.
LiteRtStatus LiteRtCreateTensorBufferFromHostMemory(const LiteRtRankedTensorType* type, void* address, size_t bytes,
                                                    void (*deallocator)(void*), LiteRtTensorBuffer* buffer);
void LiteRtDestroyTensorBuffer(LiteRtTensorBuffer buffer);

#ifdef __cplusplus
}  // extern "C"
#endif

#endif  // EDGELM_LITERT_C_H_
