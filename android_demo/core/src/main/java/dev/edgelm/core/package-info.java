/**
 * edgelm's engine for apps: reads an artifact, runs its model through a {@link dev.edgelm.core.ModelRunner}, and turns logits into
 * words.
 *
 * <p>Plain Java 8 without dependencies, so that the same classes run on Android and on any JVM, where the tests hold them against
 * edgelm's Python runtime: equal token ids, equal logits, equal texts. Every bad input is an {@link
 * dev.edgelm.core.EdgeLmException}. Nothing here is thread-safe: an app uses one session from one background thread.
 */
package dev.edgelm.core;
