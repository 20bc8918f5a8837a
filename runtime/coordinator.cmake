# ballot_coordinator: the coordinator as a service, and the client that workers have of it. Its headers bring no gRPC.
add_library(ballot_coordinator STATIC
  coordinator/wire_values.cpp coordinator/convert.cpp coordinator/convert_row.cpp coordinator/convert_status.cpp
  coordinator/call_token.cpp coordinator/refusals.cpp coordinator/memory_row_store.cpp coordinator/sqlite_row_store.cpp
  coordinator/row_thread.cpp coordinator/coordinator_desk.cpp coordinator/coordinator_service.cpp
  coordinator/reflection_service.cpp coordinator/coordinator_server.cpp coordinator/grpc_ends.cpp
  coordinator/unary_call.cpp coordinator/coordinator_client.cpp
  coordinator/etcd_address.cpp coordinator/etcd_client.cpp coordinator/etcd_leadership.cpp coordinator/etcd_row_store.cpp)
target_link_libraries(ballot_coordinator PUBLIC ballot_protocol ballot_grpc
  PRIVATE ballot_proto OpenSSL::Crypto SQLite::SQLite3)
