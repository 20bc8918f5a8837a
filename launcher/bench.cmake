# What `ballot bench` and `ballot plan` measure, apart from flags and output.
add_library(ballot_bench STATIC
  bench_model.cpp bench_ballots.cpp bench_means.cpp bench_shapes.cpp bench_vote.cpp
  interface_counters.cpp link_probe.cpp rank_numbers.cpp tcp_mesh.cpp)
target_link_libraries(ballot_bench PUBLIC ballot_trainer ballot_local_job)
