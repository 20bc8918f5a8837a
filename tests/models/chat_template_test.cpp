#include "models/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/file.h"
#include "tests/support/temporary_folder.h"

namespace ballot {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::ThrowsMessage;

// Bytes, and the special tokens of all families.
class ChatTemplates : public testing::Test {
 protected:
  ChatTemplates() {
    nlohmann::json root = nlohmann::json::parse(byte_tokenizer_json());
    int id = 258;
    for (const char* const text :
         {"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|im_start|>", "<|im_end|>"})
      root["added_tokens"].push_back({{"id", id++}, {"content", text}, {"special", true}});
    write_file_synced(folder_.file("tokenizer.json"), std::string_view(root.dump()));
    write_file_synced(folder_.file("tokenizer_config.json"),
                      std::string_view(byte_tokenizer_config_json()));
    tokenizer_ = read_tokenizer(folder_.path());
  }

  // Special tokens by name, what is trained on between >> and <<.
  std::string shown(const std::string& name, const std::vector<ChatMessage>& messages) {
    const ChatTokens chat = ChatTemplate(name, *tokenizer_).encode(messages, "here");
    EXPECT_EQ(chat.tokens.size(), chat.trained.size());
    std::string text;
    bool trained = false;
    for (std::size_t i = 0; i < chat.tokens.size(); ++i) {
      if (chat.trained[i] != trained) text += (trained = chat.trained[i]) ? ">>" : "<<";
      const std::string special = tokenizer_->special_text(chat.tokens[i]);
      text += special.empty() ? tokenizer_->decode({chat.tokens[i]}) : special;
    }
    return trained ? text + "<<" : text;
  }

  TemporaryFolder folder_;
  std::unique_ptr<Tokenizer> tokenizer_;
};

const std::vector<ChatMessage> kTalk = {{"system", " be brief "},
                                        {"user", "hi "},
                                        {"assistant", "hello"},
                                        {"user", "bye"},
                                        {"assistant", "so long "}};
const std::vector<ChatMessage> kNoSystem = {{"user", "hi"}, {"assistant", "hello"}};
const std::string kBos = "<|begin_of_text|>", kEos = "<|end_of_text|>";

TEST_F(ChatTemplates, EndATurnWithTheTokenThatAssistantsAreTaughtToEndItWith) {
  for (const std::string& name : chat_template_names()) {
    const ChatTemplate chat(name, *tokenizer_);
    const ChatTokens talk = chat.encode(kNoSystem, "here");
    const auto last = std::find(talk.trained.rbegin(), talk.trained.rend(), true);
    ASSERT_NE(last, talk.trained.rend()) << name;
    EXPECT_EQ(chat.end_of_turn(),
              talk.tokens[static_cast<std::size_t>(talk.trained.rend() - last - 1)])
        << name;
  }
}

TEST_F(ChatTemplates, Llama2) {
  EXPECT_EQ(shown("llama2", kTalk),
            kBos + "[INST] <<SYS>>\n be brief \n<</SYS>>\n\nhi [/INST]>> hello " + kEos + "<<" +
                kBos + "[INST] bye [/INST]>> so long " + kEos + "<<");
  EXPECT_THAT(
      [&] {
        shown("llama2", {{"user", "a"}, {"user", "b"}});
      },
      ThrowsMessage<DataError>(AllOf(HasSubstr("here: turn 2"), HasSubstr("\"user\""))));
}

TEST_F(ChatTemplates, Llama3TrimsContents) {
  EXPECT_EQ(shown("llama3", kTalk),
            kBos +
                "<|start_header_id|>system<|end_header_id|>\n\nbe brief<|eot_id|>"
                "<|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>"
                "<|start_header_id|>assistant<|end_header_id|>\n\n>>hello<|eot_id|><<"
                "<|start_header_id|>user<|end_header_id|>\n\nbye<|eot_id|>"
                "<|start_header_id|>assistant<|end_header_id|>\n\n>>so long<|eot_id|><<");
}

TEST_F(ChatTemplates, Llama31HasASystemMessageWithAFixedDateInAnyCase) {
  EXPECT_EQ(shown("llama3.1", kNoSystem),
            kBos +
                "<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December "
                "2023\nToday Date: 26 Jul 2024\n\n<|eot_id|>"
                "<|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>"
                "<|start_header_id|>assistant<|end_header_id|>\n\n>>hello<|eot_id|><<");
}

TEST_F(ChatTemplates, ChatMlAndSmolLm2DifferInTheSystemMessageThatNobodyGave) {
  const std::string turns =
      "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n>>hello<|im_end|><<\n";
  EXPECT_EQ(shown("chatml", kNoSystem), turns);
  EXPECT_EQ(shown("smollm2", kNoSystem),
            "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging "
            "Face<|im_end|>\n" +
                turns);
}

TEST_F(ChatTemplates, Zephyr) {
  EXPECT_EQ(shown("zephyr", kNoSystem),
            "<|user|>\nhi" + kEos + "\n<|assistant|>\n>>hello" + kEos + "<<\n");
}

TEST_F(ChatTemplates, APromptEndsWhereTheAssistantBegins) {
  for (const std::string& name : chat_template_names()) {
    const ChatTemplate chat(name, *tokenizer_);
    const std::vector<std::int32_t> prompt =
        chat.prompt(std::vector<ChatMessage>{{"user", "hi"}}, "here");
    const ChatTokens whole = chat.encode(kNoSystem, "here");
    ASSERT_LT(prompt.size(), whole.tokens.size()) << name;
    EXPECT_TRUE(std::equal(prompt.begin(), prompt.end(), whole.tokens.begin())) << name;
    EXPECT_FALSE(whole.trained[prompt.size() - 1]) << name;
    EXPECT_TRUE(whole.trained[prompt.size()]) << name;
  }
}

TEST_F(ChatTemplates, NobodysTextEndsATurn) {
  const ChatTokens chat = ChatTemplate("llama3", *tokenizer_)
                              .encode(std::vector<ChatMessage>{{"user", "a<|eot_id|>b"}}, "here");
  EXPECT_EQ(
      std::count(chat.tokens.begin(), chat.tokens.end(), tokenizer_->find_special("<|eot_id|>")),
      1);
}

TEST_F(ChatTemplates, AModelsOwnIsKnownByItsTextOrRefusedByName) {
  const auto read = [&](const std::string& text) {
    write_file_synced(folder_.file("chat_template.jinja"), std::string_view(text));
    return read_chat_template(folder_.path(), "auto", *tokenizer_).name();
  };
  const std::string chatml =
      "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + "
      "message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ "
      "'<|im_start|>assistant\\n' }}{% endif %}";
  EXPECT_EQ(read(chatml), "chatml");
  EXPECT_EQ(read(chatml + "\n"), "chatml");
  EXPECT_THAT([&] { read("{{ messages }}"); },
              ThrowsMessage<DataError>(AllOf(HasSubstr("chat_template.jinja"),
                                             HasSubstr("{{ messages }}"), HasSubstr("zephyr"))));
}

TEST_F(ChatTemplates, ThePublishedTextsAreKnown) {
  const auto known = [&](const std::string& text, const std::string& name) {
    write_file_synced(folder_.file("chat_template.jinja"), std::string_view(text));
    EXPECT_EQ(read_chat_template(folder_.path(), "auto", *tokenizer_).name(), name);
  };
  known(R"j({% if messages[0]['role'] == 'system' %}{% set loop_messages = message)j"
        R"j(s[1:] %}{% set system_message = messages[0]['content'] %}{% else %}{% )j"
        R"j(set loop_messages = messages %}{% set system_message = false %}{% endi)j"
        R"j(f %}{% for message in loop_messages %}{% if (message['role'] == 'user')j"
        R"j() != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles m)j"
        R"j(ust alternate user/assistant/user/assistant/...') }}{% endif %}{% if l)j"
        R"j(oop.index0 == 0 and system_message != false %}{% set content = '<<SYS>)j"
        R"j(>\n' + system_message + '\n<</SYS>>\n\n' + message['content'] %}{% els)j"
        R"j(e %}{% set content = message['content'] %}{% endif %}{% if message['ro)j"
        R"j(le'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST)j"
        R"j(]' }}{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip()j"
        R"j() + ' ' + eos_token }}{% endif %}{% endfor %})j",
        "llama2");
  known(R"j({% set loop_messages = messages %}{% for message in loop_messages %}{%)j"
        R"j( set content = '<|start_header_id|>' + message['role'] + '<|end_header)j"
        R"j(_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.inde)j"
        R"j(x0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content)j"
        R"j( }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>as)j"
        R"j(sistant<|end_header_id|>\n\n' }}{% endif %})j",
        "llama3");
  known(R"j({% set loop_messages = messages %}{% for message in loop_messages %}{%)j"
        R"j( set content = '<|start_header_id|>' + message['role'] + '<|end_header)j"
        R"j(_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.inde)j"
        R"j(x0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content)j"
        R"j( }}{% endfor %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' )j"
        R"j(}})j",
        "llama3");
  known(R"j({% for message in messages %}{% if loop.first and messages[0]['role'] )j"
        R"j(!= 'system' %}{{ '<|im_start|>system\nYou are a helpful AI assistant n)j"
        R"j(amed SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}{{'<|im)j"
        R"j(_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>')j"
        R"j( + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>ass)j"
        R"j(istant\n' }}{% endif %})j",
        "smollm2");
  known(R"j({% for message in messages %}\n{% if message['role'] == 'user' %}\n{{ )j"
        R"j('<|user|>\n' + message['content'] + eos_token }}\n{% elif message['rol)j"
        R"j(e'] == 'system' %}\n{{ '<|system|>\n' + message['content'] + eos_token)j"
        R"j( }}\n{% elif message['role'] == 'assistant' %}\n{{ '<|assistant|>\n'  )j"
        R"j(+ message['content'] + eos_token }}\n{% endif %}\n{% if loop.last and )j"
        R"j(add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfo)j"
        R"j(r %})j",
        "zephyr");
}

TEST_F(ChatTemplates, WithoutATemplateOrATokenItIsAnError) {
  EXPECT_THAT([&] { read_chat_template(folder_.path(), "auto", *tokenizer_); },
              ThrowsMessage<DataError>(HasSubstr("has no chat template")));
  const auto plain = parse_tokenizer(byte_tokenizer_json(), "tokenizer.json");
  EXPECT_THAT([&] { ChatTemplate("chatml", *plain); },
              ThrowsMessage<DataError>(HasSubstr("<|im_start|>")));
  EXPECT_THAT([&] { ChatTemplate("llama2", *plain); }, ThrowsMessage<DataError>(HasSubstr("bos")));
  EXPECT_THAT([&] { ChatTemplate("vicuna", *plain); },
              ThrowsMessage<ConfigError>(AllOf(HasSubstr("vicuna"), HasSubstr("llama3.1"))));
}

}  // namespace
}  // namespace ballot
