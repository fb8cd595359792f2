"""Chat templates for checkpoints that come without one."""

from __future__ import annotations

# Vicuna v1.1. The answer, and the token that ends it, are marked as what is learnt.
_VICUNA = """\
{{- bos_token -}}
{%- if messages[0]['role'] == 'system' -%}
{{- messages[0]['content'] + ' ' -}}{%- set turns = messages[1:] -%}
{%- else -%}
{{- "A chat between a curious user and an artificial intelligence assistant. " -}}
{{- "The assistant gives helpful, detailed, and polite answers to the user's questions. " -}}
{%- set turns = messages -%}
{%- endif -%}
{%- for message in turns -%}
{%- if message['role'] == 'assistant' -%}
{{- 'ASSISTANT: ' -}}{%- generation -%}{{- message['content'] + eos_token -}}{%- endgeneration -%}
{%- else -%}
{{- 'USER: ' + message['content'] + ' ' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- 'ASSISTANT:' -}}{%- endif -%}
"""

TEMPLATES = {"vicuna": _VICUNA}
