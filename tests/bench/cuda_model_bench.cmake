# The model's ops on a GPU. The test sees on the SIMT plugin that each one verifies and runs; figures need a GPU.
if(BALLOT_CUDA_HEADERS)
  add_executable(cuda_model_bench cuda_model_bench.cpp)
  target_link_libraries(cuda_model_bench PRIVATE ballot_models ballot_options)
  add_dependencies(cuda_model_bench ballot_cuda_simt)
  if(BALLOT_CUDA)
    add_dependencies(cuda_model_bench ballot_cuda)
  endif()
  add_test(NAME cuda_model_bench_simt COMMAND cuda_model_bench --tiny)
  set_tests_properties(cuda_model_bench_simt PROPERTIES LABELS simt TIMEOUT 900
    ENVIRONMENT "OMP_WAIT_POLICY=passive;OMP_NUM_THREADS=2;BALLOT_CUDA_PLUGIN=$<TARGET_FILE:ballot_cuda_simt>")
endif()
