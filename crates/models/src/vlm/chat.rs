//! Chat templates.

use std::path::Path;

use minijinja::{Environment, ErrorKind, Value, context};
use serde::Serialize;

use crate::{
    LoadError, ModelError,
    load::{read_json, read_text},
    text::token_text,
};

/// Name of the template in its environment.
const TEMPLATE: &str = "chat";

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// Text and images, in reading order.
    pub content: Vec<Content>,
}

impl Message {
    /// What the user says.
    pub fn user(content: Vec<Content>) -> Self {
        Self {
            role: "user".to_owned(),
            content,
        }
    }

    /// What the system prompt says.
    pub fn system(text: impl Into<String>) -> Self {
        Self {
            role: "system".to_owned(),
            content: vec![Content::text(text)],
        }
    }
}

/// A piece of a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Content {
    /// Text, which the template puts into the prompt as it is.
    Text {
        /// The text.
        text: String,
    },
    /// The slot of the next image.
    Image,
}

impl Content {
    /// A piece of text.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text { text: text.into() }
    }
}

/// The chat template of a model folder.
#[derive(Debug)]
pub(super) struct ChatTemplate {
    environment: Environment<'static>,
    /// The tokenizer's special tokens, which templates may name.
    tokens: Value,
}

impl ChatTemplate {
    /// Reads chat_template.jinja, chat_template.json, or `chat_template` in tokenizer_config.json.
    pub(super) fn load(dir: &Path) -> Result<Self, LoadError> {
        let config_file = dir.join("tokenizer_config.json");
        let config = if config_file.is_file() {
            read_json(&config_file)?
        } else {
            serde_json::Value::Null
        };
        let jinja = dir.join("chat_template.jinja");
        let json = dir.join("chat_template.json");
        let (file, source) = if jinja.is_file() {
            let source = read_text(&jinja)?;
            (jinja, source)
        } else if let Some(source) = json
            .is_file()
            .then(|| read_json(&json))
            .transpose()?
            .and_then(template_in)
        {
            (json, source)
        } else if let Some(source) = template_in(config.clone()) {
            (config_file, source)
        } else {
            return Err(LoadError::ChatTemplateMissing { dir: dir.to_owned() });
        };
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function(
            "raise_exception",
            |message: String| -> Result<Value, minijinja::Error> {
                Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
            },
        );
        environment
            .add_template_owned(TEMPLATE, source)
            .map_err(|source| LoadError::ChatTemplate { file, source })?;
        let token = |name: &str| token_text(&config[name]).unwrap_or_default().to_owned();
        let tokens = context! {
            bos_token => token("bos_token"), eos_token => token("eos_token"), pad_token => token("pad_token"),
        };
        Ok(Self { environment, tokens })
    }

    /// The prompt of a conversation, with the generation prompt.
    pub(super) fn render(&self, messages: &[Message]) -> Result<String, ModelError> {
        let template = self.environment.get_template(TEMPLATE)?;
        Ok(template.render(context! { messages, add_generation_prompt => true, ..self.tokens.clone() })?)
    }
}

fn template_in(json: serde_json::Value) -> Option<String> {
    json["chat_template"].as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_may_use_what_those_of_instruction_tuned_models_use() {
        let source = r#"
{%- set images = namespace(count=0) -%}
{%- if messages[0].role == 'system' -%}
[{{ messages[0].content if messages[0].content is string else messages[0].content[0].text }}]
{%- endif -%}
{%- for message in messages if message.role != 'system' -%}
    {%- for part in message['content'] -%}
        {%- if part.type == 'image' or 'image' in part or 'image_url' in part -%}
            {%- set images.count = images.count + 1 -%}
            <{{ images.count }}>
        {%- elif 'text' in part -%}
            {{- part.text.strip().split(' ')[-1] -}}
        {%- endif -%}
    {%- endfor -%}
    {{- '|' if not loop.last -}}
{%- endfor -%}
{%- if tools is defined and tools -%}tools{%- endif -%}
{%- if add_generation_prompt and not messages[::-1][0].tool_calls -%}>{%- endif -%}"#;
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("chat_template.jinja"), source).unwrap();
        let messages = [
            Message::system("Be fair."),
            Message::user(vec![Content::Image, Content::text(" which one "), Content::Image]),
            Message::user(vec![Content::Image]),
        ];
        let template = ChatTemplate::load(folder.path()).unwrap();
        assert_eq!(template.render(&messages).unwrap(), "[Be fair.]<1>one<2>|<3>>");
    }
}
