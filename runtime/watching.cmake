# ballot_watching: what Prometheus sees of a process. Its headers bring nothing of prometheus-cpp.
add_library(ballot_watching STATIC
  watching/metric_table.cpp watching/metric_values.cpp watching/metrics_endpoint.cpp watching/scrape_target.cpp
  watching/worker_watch.cpp)
target_link_libraries(ballot_watching PUBLIC ballot_collectives
  PRIVATE prometheus-cpp::pull nlohmann_json::nlohmann_json)
# Apart, so that workers without a coordinator do not link it.
add_library(ballot_coordinator_watch STATIC watching/coordinator_watch.cpp)
target_link_libraries(ballot_coordinator_watch PUBLIC ballot_watching ballot_coordinator)
add_library(ballot_tensorboard STATIC watching/record_file.cpp watching/tensorboard_log.cpp)
target_link_libraries(ballot_tensorboard PUBLIC ballot_core PRIVATE ballot_proto)
