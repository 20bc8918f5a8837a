// The row and the leader's lease in a real etcd: conditions, lost answers, a leader that vanishes,
// hangs, or goes in order.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <thread>

#include "core/error.h"
#include "runtime/coordinator/convert.h"
#include "runtime/coordinator/etcd_client.h"
#include "runtime/coordinator/etcd_row_store.h"
#include "tests/collectives/certificates.h"
#include "tests/runtime/coordinator_messages.h"
#include "tests/support/etcd_process.h"
#include "tests/support/pulsing_worker.h"
#include "tests/support/tcp_relay.h"

namespace ballot {
namespace {

using test::EtcdProcess;
using test::TcpRelay;
using test::within;
using testing::HasSubstr;
using namespace std::chrono_literals;

Row row_of_step(std::int64_t step, std::int64_t revision = 0) {
  Row row = test::full_row();
  row.commit.step = step;
  row.revision = revision;
  return row;
}

template <class Error>
std::string error_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.what();
  } catch (const std::exception& error) {
    ADD_FAILURE() << "another error: " << error.what();
  }
  return "accepted";
}

// One server for all tests, each with a run of its own.
class Etcd : public testing::Test {
 protected:
  static void SetUpTestSuite() { server_ = new EtcdProcess(); }
  static void TearDownTestSuite() {
    delete server_;
    server_ = nullptr;
  }
  static EtcdProcess& server() { return *server_; }

  std::string run() const { return testing::UnitTest::GetInstance()->current_test_info()->name(); }
  EtcdLeadershipOptions options(const std::string& name,
                                const std::string& address = server().address()) const {
    EtcdLeadershipOptions options;
    options.cluster = parse_etcd_address(address);
    options.run = run();
    options.name = name;
    options.lease = 2s;
    options.call = 2s;
    return options;
  }
  static std::shared_ptr<EtcdLeadership> stand(const EtcdLeadershipOptions& options) {
    return std::make_shared<EtcdLeadership>(options);
  }
  std::shared_ptr<EtcdLeadership> leader(const std::string& name = "one") const {
    const auto leadership = stand(options(name));
    EXPECT_TRUE(within(10s, [&] { return leadership->leads(); })) << leadership->standing();
    return leadership;
  }
  EtcdClient client() const { return EtcdClient(parse_etcd_address(server().address()), {}, 2s); }
  // Whatever there is now.
  void put(const std::string& key, const std::string& value) const {
    etcdserverpb::TxnRequest request;
    etcdserverpb::PutRequest& put = *request.add_success()->mutable_request_put();
    put.set_key(key);
    put.set_value(value);
    EtcdClient writer(parse_etcd_address(server().address()), {}, 2s);
    ASSERT_EQ(writer.transact(request).kind, EtcdClient::Answer::Kind::yes);
  }
  // By a lease, which its key goes with.
  void remove(const std::string& key) const {
    EtcdClient writer(parse_etcd_address(server().address()), {}, 2s);
    const std::int64_t lease = writer.grant(10s).lease;
    etcdserverpb::TxnRequest request;
    etcdserverpb::PutRequest& put = *request.add_success()->mutable_request_put();
    put.set_key(key);
    put.set_lease(lease);
    ASSERT_EQ(writer.transact(request).kind, EtcdClient::Answer::Kind::yes);
    writer.revoke(lease);
  }

 private:
  static EtcdProcess* server_;
};
EtcdProcess* Etcd::server_ = nullptr;

TEST_F(Etcd, GivesBackWhatWasWrittenUnderTheNextRevision) {
  const auto leadership = leader();
  const auto one = open_etcd_store(leadership), other = open_etcd_store(leadership);
  const Row empty = one->load();
  EXPECT_EQ(empty.revision, 0);
  EXPECT_FALSE(empty.term.has_value());
  for (std::int64_t revision = 0; revision < 5; ++revision) {
    const Row row = row_of_step(10 + revision, revision);
    const WriteAnswer answer = one->write(row);
    ASSERT_EQ(answer.written, Written::yes) << answer.why;
    for (RowStore* store : {one.get(), other.get()}) {
      const Row read = store->load();
      EXPECT_EQ(read.revision, revision + 1);
      EXPECT_EQ(encode(read), encode(row));
    }
  }
  EXPECT_EQ(one->name(), server().address() + "/ballot/" + run() + "/row");
}

TEST_F(Etcd, AWriteOnAnotherRevisionIsRefusedAndChangesNothing) {
  const auto leadership = leader();
  const auto one = open_etcd_store(leadership), other = open_etcd_store(leadership);
  Row mine = one->load(), theirs = other->load();
  mine.commit.step = 1;
  theirs.commit.step = 2;
  EXPECT_EQ(other->write(theirs).written, Written::yes);
  const WriteAnswer answer = one->write(mine);
  EXPECT_EQ(answer.written, Written::refused);
  EXPECT_THAT(answer.why, HasSubstr("another revision than 0"));
  EXPECT_EQ(one->load().commit.step, 2);
  const WriteAnswer ahead = one->write(row_of_step(9, 17));
  EXPECT_EQ(ahead.written, Written::refused);
  EXPECT_THAT(ahead.why, HasSubstr("the row has revision 1, not 17"));
  EXPECT_EQ(one->load().revision, 1);
  EXPECT_TRUE(leadership->leads());
}

TEST_F(Etcd, OfTwoThatRaceOneWins) {
  const auto leadership = leader();
  const auto one = open_etcd_store(leadership), other = open_etcd_store(leadership);
  constexpr int kRounds = 15;
  std::atomic<int> wins = 0;
  const auto race = [&](RowStore& store) {
    for (int i = 0; i < kRounds; ++i) {
      Row row = store.load();
      ++row.commit.step;  // lost if two writes of one revision were taken
      if (store.write(row).written == Written::yes) ++wins;
    }
  };
  std::thread thread([&] { race(*other); });
  race(*one);
  thread.join();
  EXPECT_GE(wins, kRounds);
  EXPECT_EQ(one->load().revision, wins);
  EXPECT_EQ(one->load().commit.step, wins);
}

TEST_F(Etcd, WhatIsThereAndIsNoRowOfThisRunIsRefused) {
  const auto leadership = leader();
  const auto store = open_etcd_store(leadership);
  ASSERT_EQ(store->write(row_of_step(5)).written, Written::yes);
  const std::string key = etcd_key(run(), "row");
  EtcdClient reader = client();
  const std::string whole = reader.read(key).value->bytes;

  put(key, "something else");
  EXPECT_THAT(error_of<CorruptFile>([&] { store->load(); }), HasSubstr("no coordinator's row"));
  std::string later = whole;
  later.replace(later.find(" 1 "), 3, " 2 ");
  put(key, later);
  EXPECT_THAT(error_of<ConfigError>([&] { store->load(); }), HasSubstr("use the version"));
  for (std::size_t at = 0; at < whole.size(); at += 11) {
    std::string damaged = whole;
    damaged[at] = static_cast<char>(damaged[at] ^ 0x41);
    put(key, damaged);
    EXPECT_THROW(store->load(), WorldError) << "byte " << at;
  }
  put(key, whole.substr(0, whole.size() - 1));
  EXPECT_THAT(error_of<CorruptFile>([&] { store->load(); }), HasSubstr("damaged"));
  put(etcd_key(run() + "2", "row"), whole);  // another run's
  EtcdLeadershipOptions other = options("one");
  other.run = run() + "2";
  const auto others = open_etcd_store(stand(other));
  EXPECT_THAT(error_of<CorruptFile>([&] { others->load(); }), HasSubstr("damaged"));
  put(key, whole);
  EXPECT_EQ(store->load().commit.step, 5);
}

TEST_F(Etcd, ARowTooLargeForItIsRefusedAndNamed) {
  const auto store = open_etcd_store(leader());
  ASSERT_EQ(store->write(row_of_step(5)).written, Written::yes);
  Row row = row_of_step(6, 1);
  for (int i = 0; i < 4; ++i) {
    row.checkpoints.push_back(test::full_checkpoint());
    row.checkpoints.back().files.assign(1000, std::string(490, 'f'));  // etcd takes 1.5 MiB
  }
  const WriteAnswer answer = store->write(row);
  EXPECT_EQ(answer.written, Written::refused);
  EXPECT_THAT(answer.why, HasSubstr("request is too large"));
  EXPECT_EQ(store->load().commit.step, 5);
}

// The request arrives, its answer does not.
TEST_F(Etcd, ALostAnswerIsUnclearAndTheRowIsWritten) {
  TcpRelay relay(server().port());
  const auto leadership = stand(options("one", "etcd://" + relay.address()));
  ASSERT_TRUE(within(10s, [&] { return leadership->leads(); })) << leadership->standing();
  const auto store = open_etcd_store(leadership);
  ASSERT_EQ(store->write(row_of_step(5)).written, Written::yes);
  relay.pass(TcpRelay::Passes::requests);
  const WriteAnswer answer = store->write(row_of_step(6, 1));
  EXPECT_EQ(answer.written, Written::unclear);
  EXPECT_THAT(answer.why, HasSubstr(relay.address()));
  EXPECT_THAT(answer.why, HasSubstr("DEADLINE_EXCEEDED"));
  EXPECT_THROW(store->load(), TransportError);
  relay.pass(TcpRelay::Passes::both);
  const Row row = store->load();
  EXPECT_EQ(row.revision, 2);
  EXPECT_EQ(row.commit.step, 6);
}

TEST_F(Etcd, ALostRequestIsUnclearTooAndTheRowIsNot) {
  TcpRelay relay(server().port());
  const auto leadership = stand(options("one", "etcd://" + relay.address()));
  ASSERT_TRUE(within(10s, [&] { return leadership->leads(); })) << leadership->standing();
  const auto store = open_etcd_store(leadership);
  ASSERT_EQ(store->write(row_of_step(5)).written, Written::yes);
  relay.pass(TcpRelay::Passes::nothing);
  EXPECT_EQ(store->write(row_of_step(6, 1)).written, Written::unclear);
  relay.pass(TcpRelay::Passes::both);
  EXPECT_EQ(store->load().commit.step, 5);
  EXPECT_TRUE(within(10s, [&] { return leadership->leads(); })) << leadership->standing();
  const WriteAnswer again = store->write(row_of_step(6, 1));
  EXPECT_EQ(again.written, Written::yes) << again.why;
}

TEST_F(Etcd, OneLeadsAndKeepsItsLeaseWhileAnotherStandsBy) {
  const auto one = leader("one");
  const auto other = stand(options("other"));
  EXPECT_TRUE(within(10s, [&] { return other->standing().find("one leads") != std::string::npos; }))
      << other->standing();
  EXPECT_FALSE(other->leads());
  std::this_thread::sleep_for(2300ms);  // longer than the lease: it is kept
  EXPECT_TRUE(one->leads());
  EXPECT_FALSE(other->leads());
}

// Long before the lease ends.
TEST_F(Etcd, TheOtherFollowsAtOnceWhenTheLeaderGoesInOrder) {
  EtcdLeadershipOptions long_lease = options("one");
  long_lease.lease = 60s;
  auto one = stand(long_lease);
  ASSERT_TRUE(within(10s, [&] { return one->leads(); })) << one->standing();
  long_lease.name = "other";
  const auto other = stand(long_lease);
  EXPECT_TRUE(within(10s, [&] { return other->standing().find("one leads") != std::string::npos; }))
      << other->standing();
  one.reset();
  EXPECT_TRUE(within(20s, [&] { return other->leads(); })) << other->standing();
}

// Cut off, it stops leading by its own clock before another one may begin, even while it waits for
// an answer.
TEST_F(Etcd, ALeaderThatIsCutOffStopsLeadingBeforeAnotherBegins) {
  TcpRelay relay(server().port());
  EtcdLeadershipOptions patient = options("one", "etcd://" + relay.address());
  patient.call = 3s;
  const auto one = stand(patient);
  ASSERT_TRUE(within(10s, [&] { return one->leads(); })) << one->standing();
  const auto other = stand(options("other"));
  std::this_thread::sleep_for(1s);  // it has kept its lease once at least
  relay.pass(TcpRelay::Passes::nothing);
  bool both = false;
  EXPECT_TRUE(within(15s, [&] {
    const bool other_leads = other->leads();  // asked first
    both = both || (other_leads && one->leads());
    return other_leads;
  })) << other->standing();
  EXPECT_FALSE(both);
  EXPECT_FALSE(one->leads());
  const auto store = open_etcd_store(one);
  EXPECT_EQ(store->write(row_of_step(5)).written, Written::refused);
  relay.pass(TcpRelay::Passes::both);
  EXPECT_TRUE(within(10s, [&] {
    return one->standing().find("stands by: other leads") != std::string::npos;
  })) << one->standing();
}

// The condition itself, not what the process believes: its key is replaced behind its back. Now and
// then it hears of that before it writes.
TEST_F(Etcd, AWriteOfAnEarlierLeaderIsRefusedByEtcd) {
  const auto one = leader("one");
  const auto store = open_etcd_store(one);
  const std::string key = one->key();
  EtcdClient thief = client();
  bool refused_there = false;
  for (int tries = 0; tries < 20 && !refused_there; ++tries) {
    thief.revoke(thief.read(key).value->lease);
    put(key, "a thief");
    const WriteAnswer answer = store->write(row_of_step(6));
    ASSERT_EQ(answer.written, Written::refused);
    refused_there = answer.why.find("leads no more, a thief does") != std::string::npos;
    EXPECT_FALSE(one->leads());
    remove(key);
    ASSERT_TRUE(within(10s, [&] { return one->leads(); })) << one->standing();
  }
  EXPECT_TRUE(refused_there);
  EXPECT_EQ(store->load().revision, 0);
}

// Whatever is on its way when the leadership ends and begins again is of another leadership.
TEST_F(Etcd, EachLeadershipHasARevisionOfItsOwn) {
  auto one = leader("one");
  const std::int64_t first = one->key_revision().value();
  one->lost(first - 1);  // another one's
  EXPECT_TRUE(one->leads());
  one->lost(first);
  EXPECT_FALSE(one->leads());
  ASSERT_TRUE(within(10s, [&] { return one->leads(); })) << one->standing();
  EXPECT_GT(one->key_revision().value(), first);
}

TEST_F(Etcd, SpeaksTlsToThoseItTrustsOnly) {
  const test::Certificates certificates;
  const GrpcTls tls = certificates.tls("worker");
  const EtcdProcess own({"--cert-file", tls.certificate, "--key-file", tls.key, "--trusted-ca-file",
                         tls.ca, "--client-cert-auth"},
                        "https");
  EtcdLeadershipOptions options = this->options("one", "etcds://" + own.member());
  options.tls = tls;
  {
    const auto leadership = stand(options);
    ASSERT_TRUE(within(10s, [&] { return leadership->leads(); })) << leadership->standing();
    EXPECT_EQ(open_etcd_store(leadership)->write(row_of_step(5)).written, Written::yes);
  }
  for (const GrpcTls& wrong :
       {certificates.tls("foreign"), certificates.tls("foreign", "other_ca")}) {
    options.tls = wrong;
    const auto leadership = stand(options);
    EXPECT_THROW(open_etcd_store(leadership)->load(), TransportError);
    EXPECT_FALSE(leadership->leads());
  }
}

TEST_F(Etcd, ANewLeaderFindsTheRowOfTheOldOneAndWritesOn) {
  {
    const auto store = open_etcd_store(leader("one"));
    ASSERT_EQ(store->write(row_of_step(5)).written, Written::yes);
  }
  const auto other = leader("other");
  const auto store = open_etcd_store(other);
  Row row = store->load();
  EXPECT_EQ(row.commit.step, 5);
  ++row.commit.step;
  EXPECT_EQ(store->write(row).written, Written::yes);
}

TEST_F(Etcd, ARestartedServerStillHasTheRowAndTheLeaderLeadsOn) {
  EtcdProcess own;
  EtcdLeadershipOptions with_own = options("one", own.address());
  const auto leadership = stand(with_own);
  ASSERT_TRUE(within(10s, [&] { return leadership->leads(); })) << leadership->standing();
  const auto store = open_etcd_store(leadership);
  ASSERT_EQ(store->write(row_of_step(5)).written, Written::yes);
  own.end();
  EXPECT_EQ(store->write(row_of_step(6, 1)).written, Written::unclear);
  EXPECT_THAT(error_of<TransportError>([&] { store->load(); }), HasSubstr(own.member()));
  own.start();
  EXPECT_TRUE(within(20s, [&] {
    try {
      return store->load().commit.step == 5;
    } catch (const TransportError&) {
      return false;
    }
  }));
  EXPECT_TRUE(within(20s, [&] {
    return leadership->leads() && store->write(row_of_step(6, 1)).written == Written::yes;
  })) << leadership->standing();
}

TEST_F(Etcd, TheNextMemberIsAskedWhereOneIsGone) {
  const std::string address =
      fmt::format("etcd://127.0.0.1:{},{}", test::free_port(), server().member());
  const auto leadership = stand(options("one", address));
  ASSERT_TRUE(within(10s, [&] { return leadership->leads(); })) << leadership->standing();
  const auto store = open_etcd_store(leadership);
  EXPECT_EQ(store->load().revision, 0);
  EXPECT_EQ(store->write(row_of_step(5)).written, Written::yes);
}

TEST(EtcdAddress, IsTakenApartOrRefusedByName) {
  const EtcdAddress three = parse_etcd_address("etcd://a:1,10.0.0.1:2379,[::1]:3");
  EXPECT_THAT(three.members, testing::ElementsAre("a:1", "10.0.0.1:2379", "[::1]:3"));
  EXPECT_FALSE(three.tls);
  EXPECT_TRUE(parse_etcd_address("etcds://a:1").tls);
  EXPECT_EQ(three.text(), "etcd://a:1,10.0.0.1:2379,[::1]:3");
  for (const std::string text : {"etcd://", "etcd://a", "etcd://a:1,", "etcd://a:0", "http://a:1",
                                 "etcd://a:1/path", "run/coordinator.db"})
    EXPECT_THAT(error_of<ConfigError>([&] { parse_etcd_address(text); }), HasSubstr(text));
  EXPECT_THAT(error_of<ConfigError>(
                  [] { EtcdClient(parse_etcd_address("etcds://a:1"), GrpcTls{}, Duration(1)); }),
              HasSubstr("--tls-ca"));
}

}  // namespace
}  // namespace ballot
