/**
 * The engine on a JVM: {@link dev.edgelm.core.ModelRunner} over the C API of {@code libLiteRt.so} (from the {@code ai-edge-litert}
 * wheel) by JNA, and a program that the Python tests talk to. Not part of any app.
 */
package dev.edgelm.jvm;
