"""One outside format a module: a file goes in, a lifted `LanguageModel` or an `OpaqueGraph` comes out."""
