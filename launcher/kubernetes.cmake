# Jobs on Kubernetes: objects rendered, kubectl asked.
find_package(yaml-cpp REQUIRED)
add_library(ballot_kubernetes STATIC kubernetes/kubernetes_rules.cpp kubernetes/yaml_text.cpp kubernetes/pod_parts.cpp kubernetes/mpi_job.cpp
  kubernetes/kubernetes_objects.cpp kubernetes/job_state.cpp kubernetes/kubectl.cpp kubernetes/follow_kubernetes.cpp
  kubernetes/recorded_job.cpp kubernetes/launch_kubernetes.cpp)
target_link_libraries(ballot_kubernetes PUBLIC ballot_local_job ballot_units nlohmann_json::nlohmann_json PRIVATE ballot_collectives yaml-cpp CLI11::CLI11)
