// Real clients and a real server on loopback sockets: terms form, workers are lost, join and leave,
// the coordinator goes and comes back.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>

#include "core/error.h"
#include "proto/reflection.grpc.pb.h"
#include "runtime/coordinator/coordinator_server.h"
#include "tests/runtime/coordinator_calls.h"
#include "tests/support/pulsing_worker.h"

namespace ballot {
namespace {

using test::PulsingWorker;
using test::within;
using testing::HasSubstr;
using namespace std::chrono_literals;

class Server : public test::CoordinatorTest {
 protected:
  // Workers `first` to `last` - 1, all voting in a term.
  std::vector<std::unique_ptr<PulsingWorker>> start_workers(int count) {
    std::vector<std::unique_ptr<PulsingWorker>> workers;
    for (int i = 0; i < count; ++i)
      workers.push_back(std::make_unique<PulsingWorker>(client_options(), i));
    return workers;
  }
  static bool all_vote(const std::vector<std::unique_ptr<PulsingWorker>>& workers,
                       std::int64_t term) {
    return within(20s, [&] {
      return std::ranges::all_of(workers, [&](const auto& w) { return w->voting_in(term); });
    });
  }
};

TEST_F(Server, ThreeWorkersFormATermAndCommitWhatAllHaveMadeDurable) {
  options.desk.coordinator.membership.start_workers = 3;
  start();
  const auto workers = start_workers(3);
  ASSERT_TRUE(all_vote(workers, 1));
  for (const auto& worker : workers) {
    EXPECT_EQ(worker->record(), workers[0]->record());
    EXPECT_EQ(worker->joins(), 1);
  }
  EXPECT_EQ(workers[0]->record().workers.size(), 3u);
  EXPECT_EQ(workers[0]->record().find(2)->address, "127.0.0.1:20002");
  EXPECT_EQ(workers[0]->record().config, test::run_config_digest());
  workers[0]->hold(5);
  workers[1]->hold(5);
  workers[2]->hold(4);
  EXPECT_TRUE(within(20s, [&] {
    return std::ranges::all_of(workers, [](const auto& w) { return w->commit() == 4; });
  }));
  const ServiceStatus seen = status();
  EXPECT_EQ(seen.coordinator.term, 1);
  EXPECT_EQ(seen.coordinator.commit.step, 4);
  EXPECT_EQ(seen.coordinator.head, 5);
  EXPECT_EQ(seen.run, "run");
  EXPECT_EQ(seen.coordinator.workers.size(), 3u);
  EXPECT_EQ(seen.coordinator.workers[2].held.step, 4);
  EXPECT_TRUE(seen.refusals.empty());
}

// Whoever pulsed once and has nothing new to say learns of a seal and of a term all the same.
TEST_F(Server, OrdersDoNotWaitForTheNextPulse) {
  options.desk.coordinator.membership.start_workers = 3;
  options.desk.coordinator.membership.heartbeat_timeout = 10min;
  start();
  CoordinatorClientOptions client = client_options();
  client.heartbeat = client.urgent = client.silence = 10min;
  std::vector<std::unique_ptr<PulsingWorker>> workers;
  for (int i = 0; i < 3; ++i) workers.push_back(std::make_unique<PulsingWorker>(client, i));
  ASSERT_TRUE(all_vote(workers, 1));
  workers[0]->suspect(1, "no verdict of step 1");
  EXPECT_TRUE(all_vote(workers, 2));
}

TEST_F(Server, WaitsForEnoughWorkersAndSaysSo) {
  options.desk.coordinator.membership.start_workers = 2;
  start();
  const auto workers = start_workers(1);
  EXPECT_TRUE(within(20s, [&] {
    return status().coordinator.reason == "1 of 2 workers have joined";
  })) << status().coordinator.reason;
  EXPECT_EQ(status().coordinator.decision, "wait");
}

TEST_F(Server, AKilledWorkerIsSentAwayAndNamed) {
  options.desk.coordinator.membership.start_workers = 3;
  options.desk.coordinator.membership.heartbeat_timeout = 3s;
  start();
  auto workers = start_workers(3);
  ASSERT_TRUE(all_vote(workers, 1));
  workers.pop_back();
  ASSERT_TRUE(all_vote(workers, 2));
  EXPECT_EQ(workers[0]->record().workers.size(), 2u);
  EXPECT_EQ(workers[0]->record().find(2), nullptr);
  EXPECT_EQ(workers[0]->joins(), 1);
  const ServiceStatus seen = status();
  ASSERT_FALSE(seen.changes.empty());
  EXPECT_EQ(seen.changes.back().term, 2);
  EXPECT_THAT(seen.changes.back().reason, HasSubstr("worker 2"));
}

TEST_F(Server, AWorkerThatComesLaterJoinsTheNextTerm) {
  options.desk.coordinator.membership.start_workers = 2;
  start();
  auto workers = start_workers(2);
  ASSERT_TRUE(all_vote(workers, 1));
  for (const auto& worker : workers) worker->hold(3);
  workers.push_back(std::make_unique<PulsingWorker>(client_options(), 2));
  // The change is planned for the step after next: those who vote go on until then.
  std::int64_t step = 3;
  EXPECT_TRUE(within(20s, [&] {
    ++step;
    for (int i = 0; i < 2; ++i)
      if (workers[i]->voting_in(1)) workers[i]->hold(step);
    std::this_thread::sleep_for(20ms);
    return workers[2]->voting_in(2);
  }));
  EXPECT_TRUE(all_vote(workers, 2));
  EXPECT_EQ(workers[0]->joins(), 1);
  EXPECT_EQ(workers[0]->record().workers.size(), 3u);
}

TEST_F(Server, AWorkerThatIsKilledAndComesBackHasANewIncarnation) {
  options.desk.coordinator.membership.start_workers = 2;
  start();
  auto workers = start_workers(2);
  ASSERT_TRUE(all_vote(workers, 1));
  workers[1] = std::make_unique<PulsingWorker>(client_options(), 1);
  std::int64_t step = 0;
  EXPECT_TRUE(within(20s, [&] {
    const std::int64_t term = workers[0]->pulse().term;
    // It may come back into the very next term, or join the one after it at a step to come.
    if (workers[0]->voting_in(term)) workers[0]->hold(++step);
    std::this_thread::sleep_for(10ms);
    return term > 1 && workers[0]->voting_in(term) && workers[1]->voting_in(term);
  }));
  EXPECT_EQ(workers[1]->pulse().identity, (Identity{1, 2}));
  EXPECT_EQ(workers[0]->pulse().identity, (Identity{0, 1}));
}

TEST_F(Server, AWorkerThatLeavesIsDismissedAndTheOthersGoOn) {
  options.desk.coordinator.membership.start_workers = 2;
  start();
  auto workers = start_workers(2);
  ASSERT_TRUE(all_vote(workers, 1));
  workers[1]->leave();
  std::int64_t step = 0;
  EXPECT_TRUE(within(20s, [&] {
    ++step;
    for (const auto& worker : workers)
      if (worker->voting_in(1)) worker->hold(step);
    std::this_thread::sleep_for(20ms);
    return workers[0]->voting_in(2) && workers[1]->dismissed();
  }));
  EXPECT_EQ(workers[0]->record().find(1), nullptr);
}

TEST_F(Server, AnExpelledWorkerIsNotInTheNextTerm) {
  options.desk.coordinator.membership.start_workers = 2;
  start();
  const auto workers = start_workers(2);
  ASSERT_TRUE(all_vote(workers, 1));
  expel_worker(server->address(), "run", options.access, 1, "its ballots are noise", 10s);
  EXPECT_TRUE(within(20s, [&] { return workers[0]->voting_in(2); }));
  EXPECT_EQ(workers[0]->record().find(1), nullptr);
  EXPECT_THAT(status().changes.back().reason,
              HasSubstr("worker 1 is expelled: its ballots are noise"));
}

// Its own process is refused, by another error than a wrong configuration is; a new one is not.
TEST_F(Server, OneThatWasSentAwayIsToldSoWhenItJoinsAgainAlsoByTheNextCoordinator) {
  start();
  CoordinatorClient client(client_options());
  Join join;
  join.worker = 1;
  join.address = "127.0.0.1:20001";
  join.version = "test";
  client.join(join, Deadline::in(10s));
  expel_worker(server->address(), "run", options.access, 1, "its ballots are noise", 10s);
  EXPECT_TRUE(within(10s, [&] { return stored().sent_away.contains(1); }));
  for (const bool restarted : {false, true}) {
    if (restarted) {
      options.listen = server->address();
      server.reset();
      start();
    }
    join.again = true;
    try {
      client.join(join, Deadline::in(20s));
      ADD_FAILURE() << "it was let in again";
    } catch (const SentAway& error) {
      EXPECT_THAT(error.what(), HasSubstr("worker 1 was sent away: its ballots are noise"));
      EXPECT_EQ(error.exit_code(), ExitCode::sent_away);
    }
  }
  join.again = false;
  EXPECT_EQ(client.join(join, Deadline::in(10s)).incarnation, 2);
  EXPECT_THROW(expel_worker(server->address(), "run", options.access, 7, "nobody", 10s),
               ConfigError);
}

TEST_F(Server, ARestartedCoordinatorGoesOnWithTheSameTerm) {
  options.desk.coordinator.membership.start_workers = 2;
  start();
  const auto workers = start_workers(2);
  ASSERT_TRUE(all_vote(workers, 1));
  for (const auto& worker : workers) worker->hold(2);
  ASSERT_TRUE(within(20s, [&] { return workers[0]->commit() == 2; }));
  const std::string address = server->address();
  for (std::int64_t step = 3; step < 6; ++step) {
    server.reset();
    for (const auto& worker : workers) worker->hold(step);  // steps wait for no coordinator
    EXPECT_TRUE(within(20s, [&] { return !workers[0]->client().trouble().empty(); }));
    options.listen = address;
    start();
    EXPECT_TRUE(within(20s, [&] {
      return workers[0]->commit() == step && workers[1]->commit() == step;
    })) << step;
    EXPECT_EQ(workers[0]->client().trouble(), "");
  }
  for (const auto& worker : workers) {
    EXPECT_TRUE(worker->voting_in(1));
    EXPECT_EQ(worker->joins(), 1);
  }
  EXPECT_EQ(stored().term->term, 1);
}

TEST_F(Server, WhoIsToldThatItEndsKnowsWhy) {
  start();
  CoordinatorClientOptions patient = client_options();
  patient.first_pause = patient.last_pause = 5s;  // what it was told last stays the last
  std::vector<std::unique_ptr<PulsingWorker>> workers;
  workers.push_back(std::make_unique<PulsingWorker>(patient, 0));
  ASSERT_TRUE(all_vote(workers, 1));
  server->stop("the coordinator was asked to end");
  EXPECT_TRUE(server->wait(Deadline::in(10s)));
  EXPECT_TRUE(within(20s, [&] {
    return workers[0]->client().trouble().find("the coordinator was asked to end") !=
           std::string::npos;
  })) << workers[0]->client().trouble();
  EXPECT_TRUE(workers[0]->voting_in(1));
}

TEST_F(Server, AJoinWaitsForACoordinatorThatIsNotThereYet) {
  const std::string address = test::free_address();
  CoordinatorClientOptions client = client_options();
  client.address = address;
  PulsingWorker worker(client, 0);
  CoordinatorClient impatient(client);
  try {
    impatient.join(Join{}, Deadline::in(300ms));
    FAIL() << "nobody is there";
  } catch (const Timeout& error) {
    EXPECT_THAT(error.what(), HasSubstr(address));
  }
  options.listen = address;
  start();
  EXPECT_TRUE(within(20s, [&] { return worker.voting_in(1); })) << worker.failure();
}

TEST_F(Server, ATakenPortIsAnErrorThatNamesIt) {
  start();
  options.listen = server->address();
  try {
    CoordinatorServer second(options, open_memory_store(make_memory_row()));
    FAIL() << "two listen at " << options.listen;
  } catch (const TransportError& error) {  // whoever has it may let go of it
    EXPECT_THAT(error.what(), HasSubstr("cannot listen at " + options.listen));
  }
}

TEST_F(Server, AnswersHealthChecks) {
  start();
  for (const std::string& service : {std::string(), std::string("ballot.wire.Coordinator")})
    EXPECT_TRUE(within(20s, [&] { return test::health_of(server->address(), service) == 1; }))
        << service;  // 1: SERVING
  EXPECT_EQ(test::health_of(server->address(), "no.such.Service"), std::nullopt);
}

TEST_F(Server, AnswersReflection) {
  namespace reflection = grpc::reflection::v1alpha;
  start();
  const auto stub = reflection::ServerReflection::NewStub(
      grpc::CreateChannel(server->address(), grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + 20s);
  const auto stream = stub->ServerReflectionInfo(&context);
  const auto ask = [&](const reflection::ServerReflectionRequest& request) {
    reflection::ServerReflectionResponse response;
    EXPECT_TRUE(stream->Write(request) && stream->Read(&response));
    return response;
  };
  reflection::ServerReflectionRequest request;
  request.set_list_services("*");
  std::vector<std::string> services;
  const auto listed = ask(request);
  for (const auto& service : listed.list_services_response().service())
    services.push_back(service.name());
  EXPECT_THAT(services,
              testing::UnorderedElementsAre("ballot.wire.Coordinator", "grpc.health.v1.Health",
                                            "grpc.reflection.v1alpha.ServerReflection"));
  request.set_file_containing_symbol("ballot.wire.Coordinator");
  const auto answer = ask(request);
  ASSERT_EQ(answer.file_descriptor_response().file_descriptor_proto_size(), 1);
  EXPECT_THAT(answer.file_descriptor_response().file_descriptor_proto(0), HasSubstr("Pulses"));
  request.set_file_by_filename("proto/coordinator.proto");
  EXPECT_EQ(ask(request).file_descriptor_response().file_descriptor_proto_size(), 1);
  request.set_file_containing_symbol("no.such.symbol");
  EXPECT_EQ(ask(request).error_response().error_code(), grpc::StatusCode::NOT_FOUND);
  stream->WritesDone();
  EXPECT_TRUE(stream->Finish().ok());
}

}  // namespace
}  // namespace ballot
