ballot_cuda_test(collectives_vote_cuda_test vote_cuda_test.cpp LINK ballot_collectives)
# Ranks are threads, each with a GPU of its own.
ballot_cuda_test(collectives_nccl_test nccl_test.cpp LINK ballot_collectives
  ENVIRONMENT BALLOT_STAND_IN_DEVICES=5 ORDERS random:1 eager lazy random:2)
