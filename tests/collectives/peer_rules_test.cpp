// What one peer may send and when, without a network: frames, inbox and outbox against each other.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <deque>
#include <random>

#include "collectives/transport/grpc_frames.h"
#include "collectives/transport/network_address.h"
#include "collectives/transport/peer_inbox.h"
#include "collectives/transport/peer_outbox.h"
#include "core/error.h"
#include "rank_suite.h"

namespace ballot {
namespace {

using test::message_of;
using testing::HasSubstr;

FramePayload payload_of(std::vector<std::byte> bytes) {
  auto owner = std::make_shared<std::vector<std::byte>>(std::move(bytes));
  return {{*owner}, owner};
}

FrameHeader data(std::uint64_t number, std::uint64_t start, std::uint64_t offset,
                 std::uint32_t length, std::uint64_t total) {
  FrameHeader header;
  header.number = number;
  header.start = start;
  header.offset = offset;
  header.length = length;
  header.total = total;
  return header;
}

struct OneInbound {
  OneInbound(PeerInbox& box, std::uint64_t number, std::size_t size) : bytes(size), inbox(box) {
    inbound.key = {0, number};
    inbound.parts = {bytes};
    inbound.total = size;
    inbox.open(inbound);
  }
  void copy_all() {
    while (auto frame = inbox.take(inbound)) {
      copy_frame(inbound, *frame);
      inbox.copied(inbound, *frame);
    }
  }
  std::vector<std::byte> bytes;
  PeerInbox& inbox;
  Inbound inbound;
};

TEST(PeerInbox, KeepsWhatComesBeforeItsStartAndItsOpening) {
  PeerInbox inbox;
  inbox.receive(data(5, 0, 0, 3, 4), payload_of(std::vector(3, std::byte{7})));
  EXPECT_EQ(inbox.early_bytes(), early_cost(3));
  OneInbound in(inbox, 5, 4);
  EXPECT_EQ(inbox.receive(data(5, 0, 3, 1, 4), payload_of({std::byte{8}})), nullptr);
  inbox.start(in.inbound);
  EXPECT_EQ(inbox.early_bytes(), 0u);
  in.copy_all();
  EXPECT_TRUE(in.inbound.arrived);
  EXPECT_EQ(in.bytes, (std::vector{std::byte{7}, std::byte{7}, std::byte{7}, std::byte{8}}));
}

TEST(PeerInbox, ASecondMessageWaitsForTheSecondStart) {
  PeerInbox inbox;
  OneInbound in(inbox, 1, 1);
  inbox.start(in.inbound);
  EXPECT_EQ(inbox.receive(data(1, 0, 0, 1, 1), payload_of({std::byte{1}})), &in.inbound);
  EXPECT_EQ(inbox.receive(data(1, 1, 0, 1, 1), payload_of({std::byte{2}})), nullptr);
  in.copy_all();
  EXPECT_EQ(in.bytes[0], std::byte{1});
  inbox.start(in.inbound);
  EXPECT_FALSE(in.inbound.arrived);
  in.copy_all();
  EXPECT_TRUE(in.inbound.arrived);
  EXPECT_EQ(in.bytes[0], std::byte{2});
}

TEST(PeerInbox, AnEmptyMessageArrives) {
  PeerInbox inbox;
  OneInbound in(inbox, 1, 0);
  inbox.start(in.inbound);
  EXPECT_FALSE(in.inbound.arrived);
  inbox.receive(data(1, 0, 0, 0, 0), {});
  in.copy_all();
  EXPECT_TRUE(in.inbound.arrived);
}

TEST(PeerInbox, WhatIsNotTheNextByteIsRefused) {
  PeerInbox inbox;
  OneInbound in(inbox, 1, 10);
  inbox.start(in.inbound);
  const auto refused = [&](FrameHeader header) {
    return message_of<TransportError>(
        [&] { inbox.receive(header, payload_of(std::vector<std::byte>(header.length))); });
  };
  EXPECT_THAT(refused(data(1, 1, 0, 5, 10)), HasSubstr("expected start 0 and byte 0"));
  EXPECT_THAT(refused(data(1, 0, 5, 5, 10)), HasSubstr("expected start 0 and byte 0"));
  inbox.receive(data(1, 0, 0, 5, 10), payload_of(std::vector<std::byte>(5)));
  EXPECT_THAT(refused(data(1, 0, 0, 5, 10)), HasSubstr("expected start 0 and byte 5"));
  EXPECT_THAT(refused(data(1, 0, 5, 5, 11)), HasSubstr("expected start 0 and byte 5"));
  in.copy_all();
  EXPECT_EQ(in.inbound.received, 5u);
}

TEST(PeerInbox, AnotherSizeIsNotedAndItsBytesPass) {
  PeerInbox inbox;
  OneInbound in(inbox, 1, 10);
  inbox.start(in.inbound);
  inbox.receive(data(1, 0, 0, 12, 12), payload_of(std::vector<std::byte>(12)));
  in.copy_all();
  EXPECT_EQ(in.inbound.wrong_total, 12u);
  EXPECT_FALSE(in.inbound.arrived);
  EXPECT_EQ(inbox.take_garbage().size(), 1u);
}

TEST(PeerInbox, ALimitOfWhatMayComeEarly) {
  PeerInbox inbox;
  std::uint64_t number = 0;
  const std::uint32_t large = 1 << 20;
  for (; inbox.early_bytes() + early_cost(large) <= kMostEarlyBytes; ++number)
    inbox.receive(data(number, 0, 0, large, large), payload_of(std::vector<std::byte>(large)));
  EXPECT_EQ(number, 3u);
  EXPECT_THAT(
      message_of<TransportError>([&] { inbox.receive(data(number, 0, 0, large, large), {}); }),
      HasSubstr("has not been announced as ready"));
}

TEST(PeerInbox, AClosedTransferTakesNoMoreAndKeepsNothing) {
  PeerInbox inbox;
  {
    OneInbound in(inbox, 1, 10);
    inbox.start(in.inbound);
    inbox.receive(data(1, 0, 0, 5, 10), payload_of(std::vector<std::byte>(5)));
    inbox.close(in.inbound);
  }
  EXPECT_EQ(inbox.receive(data(1, 0, 5, 5, 10), payload_of(std::vector<std::byte>(5))), nullptr);
  EXPECT_EQ(inbox.early_bytes(), 0u);
  EXPECT_EQ(inbox.take_garbage().size(), 2u);
}

TEST(PeerOutbox, NoticesMustFitTheStarts) {
  PeerOutbox outbox(4096);
  outbox.ready({0, 3, 0});  // the peer was first
  EXPECT_THAT(message_of<TransportError>([&] {
                outbox.ready({0, 3, 1});
              }),
              HasSubstr("a notice that start 1 of transfer 3 is ready, expected start 1 of 1"));
  EXPECT_THAT(message_of<TransportError>([&] {
                outbox.ready({0, 3, 0});
              }),
              HasSubstr("a notice that start 0"));
}

TEST(PeerOutbox, ALargeMessageThatMustWaitLetsOthersPass) {
  PeerOutbox outbox(1 << 20);
  const std::vector<std::byte> bytes(8 << 20);
  Outbound large, small;
  large.key = {0, 0};
  large.parts = {bytes};
  large.total = bytes.size();
  small.key = {0, 1};
  small.parts = {ConstBytes(bytes).first(5)};
  small.total = 5;
  outbox.open(large);
  outbox.open(small);
  outbox.start(large);
  outbox.start(small);
  std::uint64_t sent = 0;
  bool passed = false;
  while (const auto frame = outbox.next()) {
    passed = passed || frame->outbound == &small;
    sent += frame->header.length;
  }
  EXPECT_TRUE(passed);
  EXPECT_TRUE(outbox.blocked(large));
  EXPECT_LE(sent, kMostEarlyBytes);
  outbox.ready({0, 0, 0});
  EXPECT_FALSE(outbox.blocked(large));
  while (const auto frame = outbox.next()) sent += frame->header.length;
  EXPECT_EQ(sent, bytes.size() + 5);
  outbox.ready({0, 1, 0});
  EXPECT_EQ(outbox.early_bytes(), 0u);
}

// Two ends joined by queues, transfers of random sizes cut into random parts, opened, started and
// carried in random order: every byte is in its place, and what is held early stays bounded.
TEST(PeerRules, WhateverTheOrderEveryByteArrives) {
  for (int trial = 0; trial < 40; ++trial) {
    std::mt19937_64 random(static_cast<std::uint64_t>(trial));
    PeerOutbox outbox(4096 + random() % 1'000'000);
    PeerOutbox notices(4096);  // the receiver's, for its notices
    PeerInbox inbox;
    struct One {
      std::vector<std::byte> source, target;
      Outbound out;
      Inbound in;
      int sends = 0, receives = 0;
      bool out_open = false, in_open = false;
    };
    std::vector<std::unique_ptr<One>> all;
    const int starts = 3;
    for (std::uint64_t number = 0; number < 6; ++number) {
      auto one = std::make_unique<One>();
      const std::size_t size = std::array<std::size_t, 4>{0, 1 + random() % 100, random() % 100'000,
                                                          random() % 2'500'000}[random() % 4];
      one->source.resize(size);
      one->target.resize(size);
      one->out.key = one->in.key = {0, number};
      one->out.total = one->in.total = size;
      const auto cut = [&](auto bytes, auto& parts) {
        while (!bytes.empty()) {
          const std::size_t count = std::min<std::size_t>(bytes.size(), random() % (size + 1));
          parts.push_back(bytes.first(count));
          bytes = bytes.subspan(count);
        }
        parts.push_back(bytes);
      };
      cut(ConstBytes(one->source), one->out.parts);
      cut(Bytes(one->target), one->in.parts);
      all.push_back(std::move(one));
    }
    std::deque<std::pair<FrameHeader, FramePayload>> wire;
    std::uint64_t most_early = 0;
    int left = static_cast<int>(all.size()) * starts;
    for (int step = 0; left > 0; ++step) {
      ASSERT_LT(step, 200'000) << "it goes on, trial " << trial;
      One& one = *all[random() % all.size()];
      switch (random() % 5) {
        case 0:  // the sender
          if (!one.out_open) outbox.open(one.out), one.out_open = true;
          if (one.out.queued || one.sends == starts) break;
          // Bytes of a start may change once they have been taken.
          std::ranges::fill(one.source, static_cast<std::byte>(random()));
          for (std::size_t i = 0; i < one.source.size(); i += 1 + random() % 500)
            one.source[i] = static_cast<std::byte>(random());
          outbox.start(one.out);
          ++one.sends;
          break;
        case 1:  // the receiver
          if (!one.in_open) inbox.open(one.in), one.in_open = true;
          if (!one.in.arrived || one.receives == starts || one.receives > one.sends) break;
          inbox.start(one.in);
          notices.announce(one.in.key, one.in.starts - 1);
          ++one.receives;
          break;
        case 2:  // frames and notices leave
          if (auto frame = outbox.next()) {
            std::vector<std::byte> bytes;
            for (const ConstBytes piece : take_pieces(*frame->outbound, frame->header.length))
              bytes.insert(bytes.end(), piece.begin(), piece.end());
            ASSERT_EQ(bytes.size(), frame->header.length);
            wire.emplace_back(frame->header, payload_of(std::move(bytes)));
          }
          if (auto frame = notices.next())
            for (const ReadyNotice& notice : frame->notices) outbox.ready(notice);
          break;
        default:
          if (!wire.empty()) {
            inbox.receive(wire.front().first, std::move(wire.front().second));
            wire.pop_front();
            most_early = std::max(most_early, inbox.early_bytes());
          }
      }
      for (auto& other : all) {
        if (!other->in_open || other->in.arrived) continue;
        while (auto frame = inbox.take(other->in)) {
          copy_frame(other->in, *frame);
          inbox.copied(other->in, *frame);
        }
        if (!other->in.arrived) continue;
        --left;
        if (other->sends == static_cast<int>(other->in.starts)) {
          ASSERT_EQ(other->source, other->target);
        }
      }
    }
    EXPECT_LE(most_early, kMostEarlyBytes);
    EXPECT_EQ(inbox.early_bytes(), 0u);
    for (auto& one : all) {
      inbox.close(one->in);
      outbox.close(one->out);
    }
  }
}

TEST(NetworkAddress, IsParsedAsPeopleAndGrpcWriteIt) {
  EXPECT_EQ(parse_host_port("node-1:29400", "x").host, "node-1");
  EXPECT_EQ(parse_host_port("[::1]:5", "x").host, "::1");
  EXPECT_EQ(resolve({"127.0.0.1", 7}).grpc_target(), "ipv4:127.0.0.1:7");
  EXPECT_EQ(resolve({"::1", 7}).text(), "[::1]:7");
  EXPECT_TRUE(resolve({"localhost", 7}).loopback());
  EXPECT_EQ(address_towards(resolve({"127.0.0.1", 7})).ip, "127.0.0.1");
  EXPECT_EQ(parse_grpc_peer("ipv6:%5B::1%5D:99").ip, "::1");
  EXPECT_EQ(parse_grpc_peer("ipv6:%5B::ffff:10.0.0.1%5D:99").ip, "10.0.0.1");
  EXPECT_EQ(parse_grpc_peer("ipv4:10.0.0.1:99").port, 99);
  EXPECT_EQ(parse_grpc_peer("unix:/x").port, 0);
}

}  // namespace
}  // namespace ballot
