"""The data room: from files to documents, windows and batches, and from questions to tokens.

sources.py       what the user typed → an ordered list of files
hub.py           datasets on the Hugging Face hub; the only network
mix.py           a mix file → data, weights and tags
listing.py       a corpus → its files, each with weight, tags and attribute files
readers.py       a file → rows, each either read or listed with the reason why not
token_files.py   a token file → its documents: Dolma's and OLMo-core's .npy, numpy's own
megatron.py      Megatron's .bin and .idx
sidecars.py      where the documents of a token file lie, and the rows they were made from
companions.py    which files are token files and what lies beside them, by name
flat.py          a file of equal numbers, mapped
attributes.py    Dolma's attribute files, row by row beside their documents
tags.py          everything a row says beside its text, as short strings by name
conditions.py    conditions on tags, as typed
rows.py          rows → documents: forms, loss masks, identity
conversations.py a row → turns, those that are trained on, tools
chat.py          conversations through the tokenizer's template, loss on the trained turns
tokenization.py  text with target spans → tokens with a loss mask; tokens → display strings; fingerprint
config.py        CorpusConfig and the reasons a row can be skipped
packing.py       documents in the sequences that were trained on: windows, and what a share keeps for them
ingestion.py     a corpus → shares on disk, resumable, any number of workers, always the same bytes
shares.py        one share on disk: written whole, read memory-mapped
corpus.py        the finished corpus by global document and window numbers
batches.py       windows → padded or packed batches of a fixed token budget
provenance.py    a document's tokens → characters of the row they were made from
queries.py       query files → queries → tokens

Tokenizers are passed in; nothing here imports torch or transformers.
"""

from whence.data.batches import batch_from_sequences, make_batch, plan_batches
from whence.data.conditions import Condition, date_of, is_date, members, parse_condition
from whence.data.config import NOTES, SKIP_REASONS, CorpusConfig, SourceSettings
from whence.data.corpus import Corpus, CorpusShare, open_corpus
from whence.data.hub import hub_id
from whence.data.ingestion import ingest, refuse_changed_files
from whence.data.listing import corpus_files
from whence.data.mix import read_mix
from whence.data.packing import windows_of
from whence.data.provenance import CharacterMap, characters_of
from whence.data.queries import encode_queries, encode_query, load_queries
from whence.data.readers import Row, open_rows
from whence.data.rows import text_hash
from whence.data.sources import Listing, SourceFile, find_files
from whence.data.tokenization import Tokenizer, pieces_of, tokenizer_fingerprint

__all__ = [
    "NOTES",
    "SKIP_REASONS",
    "CharacterMap",
    "Condition",
    "Corpus",
    "CorpusConfig",
    "CorpusShare",
    "Listing",
    "Row",
    "SourceFile",
    "SourceSettings",
    "Tokenizer",
    "batch_from_sequences",
    "characters_of",
    "corpus_files",
    "date_of",
    "encode_queries",
    "encode_query",
    "find_files",
    "hub_id",
    "ingest",
    "is_date",
    "load_queries",
    "make_batch",
    "members",
    "open_corpus",
    "open_rows",
    "parse_condition",
    "pieces_of",
    "plan_batches",
    "read_mix",
    "refuse_changed_files",
    "text_hash",
    "tokenizer_fingerprint",
    "windows_of",
]
