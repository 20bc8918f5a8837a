# The models' part of the CUDA plugin.
foreach(op embedding rms_norm swiglu attention cross_entropy)
  list(APPEND BALLOT_CUDA_MODEL_KERNELS ${PROJECT_SOURCE_DIR}/models/ops/${op}_cuda.cu)
endforeach()
list(APPEND BALLOT_CUDA_SOURCES ${BALLOT_CUDA_MODEL_KERNELS} ${PROJECT_SOURCE_DIR}/models/ops/model_ops_cuda.cpp)
# nvcc 13.0 misses the __launch_bounds__ of every kernel that is a template, though it obeys them (.maxntid is in the
# PTX); tests/cuda/kernel_rules looks for them in the text.
set_source_files_properties(${BALLOT_CUDA_MODEL_KERNELS} PROPERTIES COMPILE_OPTIONS -diag-suppress=20238)
