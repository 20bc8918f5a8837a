# Without a GPU the tests only see that it verifies and runs, on the kernels' source.
if(BALLOT_CUDA_HEADERS)
  add_executable(cuda_vote_bench cuda_vote_bench.cpp)
  target_link_libraries(cuda_vote_bench PRIVATE ballot_optim ballot_options)
  if(TARGET ballot_cuda_simt)
    add_test(NAME cuda_vote_bench COMMAND cuda_vote_bench --elements=8192)
    set_tests_properties(cuda_vote_bench PROPERTIES LABELS simt TIMEOUT 900
      ENVIRONMENT "OMP_WAIT_POLICY=passive;OMP_NUM_THREADS=2;BALLOT_CUDA_PLUGIN=$<TARGET_FILE:ballot_cuda_simt>")
  endif()
endif()
