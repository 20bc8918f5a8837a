# Jobs on other machines: who runs where, started how, watched from here.
add_library(ballot_cluster STATIC
  cluster/agent.cpp cluster/agent_order.cpp cluster/hosts.cpp cluster/host_facts.cpp cluster/host_job.cpp cluster/host_runs.cpp
  cluster/job_record.cpp cluster/network.cpp cluster/placement.cpp cluster/preflight.cpp cluster/reach.cpp
  cluster/slurm.cpp cluster/slurm_allocation.cpp cluster/starter.cpp cluster/supervisor.cpp
  environment.cpp free_port.cpp log_view.cpp detach.cpp)
target_link_libraries(ballot_cluster PUBLIC ballot_local_job ballot_core PRIVATE ballot_collectives ballot_kubernetes nlohmann_json::nlohmann_json)
