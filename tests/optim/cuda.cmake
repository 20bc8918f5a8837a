# What is compared to the bit is compiled without contraction, as the CPU's side is.
ballot_cuda_test(optim_cuda_test optim_cuda_test.cpp LINK ballot_optim ORDERS random:1 lazy)
if(TARGET optim_cuda_test)
  target_compile_options(optim_cuda_test PRIVATE -ffp-contract=off)
endif()
