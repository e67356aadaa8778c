--
-- PostgreSQL database dump
--


-- Dumped from database version 18.6
-- Dumped by pg_dump version 18.6

SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET transaction_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;

SET default_tablespace = '';

SET default_table_access_method = heap;

--
-- Name: batches; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.batches (
    feature_set_id integer NOT NULL,
    batch text NOT NULL COLLATE pg_catalog."C",
    found integer NOT NULL,
    done integer NOT NULL,
    rejected integer NOT NULL,
    deleted integer NOT NULL,
    run_id text NOT NULL,
    listed_at timestamp with time zone NOT NULL
);


--
-- Name: claims; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.claims (
    feature_set_id integer NOT NULL,
    batch text NOT NULL COLLATE pg_catalog."C",
    owner text NOT NULL,
    acquired_at timestamp with time zone NOT NULL,
    expires_at timestamp with time zone NOT NULL
);


--
-- Name: feature_sets; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.feature_sets (
    id integer NOT NULL,
    name text NOT NULL,
    dataset text NOT NULL,
    backbone text NOT NULL,
    revision text NOT NULL,
    weights_uri text NOT NULL,
    weights_sha256 text NOT NULL,
    box_rule json NOT NULL,
    "precision" text NOT NULL,
    synthetic boolean,
    created_at timestamp with time zone NOT NULL
);


--
-- Name: feature_sets_id_seq; Type: SEQUENCE; Schema: public; Owner: -
--

CREATE SEQUENCE public.feature_sets_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;


--
-- Name: feature_sets_id_seq; Type: SEQUENCE OWNED BY; Schema: public; Owner: -
--

ALTER SEQUENCE public.feature_sets_id_seq OWNED BY public.feature_sets.id;


--
-- Name: featurise_schema; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.featurise_schema (
    version_num character varying(32) NOT NULL
);


--
-- Name: gpu_attempts; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.gpu_attempts (
    id integer NOT NULL,
    feature_set_id integer NOT NULL,
    batch text NOT NULL COLLATE pg_catalog."C",
    run_id text NOT NULL,
    shard text NOT NULL,
    number integer NOT NULL,
    try_number integer NOT NULL,
    launcher text NOT NULL,
    place text,
    node text,
    batch_size integer,
    reason text,
    action text,
    exit_code integer,
    message text NOT NULL,
    images integer NOT NULL,
    images_per_second double precision NOT NULL,
    started_at timestamp with time zone NOT NULL,
    ended_at timestamp with time zone
);


--
-- Name: gpu_attempts_id_seq; Type: SEQUENCE; Schema: public; Owner: -
--

CREATE SEQUENCE public.gpu_attempts_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;


--
-- Name: gpu_attempts_id_seq; Type: SEQUENCE OWNED BY; Schema: public; Owner: -
--

ALTER SEQUENCE public.gpu_attempts_id_seq OWNED BY public.gpu_attempts.id;


--
-- Name: images; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.images (
    feature_set_id integer NOT NULL,
    key text NOT NULL COLLATE pg_catalog."C",
    etag text NOT NULL,
    image_id text NOT NULL,
    batch text NOT NULL COLLATE pg_catalog."C",
    size bigint NOT NULL,
    superseded boolean DEFAULT false NOT NULL,
    deleted_at timestamp with time zone,
    registered_at timestamp with time zone NOT NULL,
    shard_id integer NOT NULL,
    sha256 text NOT NULL,
    boxes integer NOT NULL
);


--
-- Name: rejects; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.rejects (
    feature_set_id integer NOT NULL,
    key text NOT NULL COLLATE pg_catalog."C",
    etag text NOT NULL,
    image_id text NOT NULL,
    batch text NOT NULL COLLATE pg_catalog."C",
    size bigint NOT NULL,
    superseded boolean DEFAULT false NOT NULL,
    deleted_at timestamp with time zone,
    registered_at timestamp with time zone NOT NULL,
    reason text NOT NULL,
    detail text NOT NULL,
    run_id text NOT NULL
);


--
-- Name: shards; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.shards (
    id integer NOT NULL,
    feature_set_id integer NOT NULL,
    batch text NOT NULL COLLATE pg_catalog."C",
    run_id text NOT NULL,
    name text NOT NULL,
    uri text NOT NULL,
    index_uri text NOT NULL,
    rejects_uri text NOT NULL,
    sha256 text NOT NULL,
    bytes bigint NOT NULL,
    images integer NOT NULL,
    rejects integer NOT NULL,
    statistics json NOT NULL,
    samples json NOT NULL,
    warnings json NOT NULL,
    published_at timestamp with time zone NOT NULL
);


--
-- Name: shards_id_seq; Type: SEQUENCE; Schema: public; Owner: -
--

CREATE SEQUENCE public.shards_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;


--
-- Name: shards_id_seq; Type: SEQUENCE OWNED BY; Schema: public; Owner: -
--

ALTER SEQUENCE public.shards_id_seq OWNED BY public.shards.id;


--
-- Name: feature_sets id; Type: DEFAULT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.feature_sets ALTER COLUMN id SET DEFAULT nextval('public.feature_sets_id_seq'::regclass);


--
-- Name: gpu_attempts id; Type: DEFAULT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.gpu_attempts ALTER COLUMN id SET DEFAULT nextval('public.gpu_attempts_id_seq'::regclass);


--
-- Name: shards id; Type: DEFAULT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.shards ALTER COLUMN id SET DEFAULT nextval('public.shards_id_seq'::regclass);


--
-- Data for Name: batches; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.batches VALUES (1, '2026-11-21', 3, 2, 1, 0, 'scheduled__2026-11-22', '2026-11-27 22:19:23.39583+00');
INSERT INTO public.batches VALUES (1, '2026-11-18', 0, 0, 0, 0, 'scheduled__2026-11-21', '2026-11-27 22:19:16.791998+00');
INSERT INTO public.batches VALUES (1, '2026-11-19', 0, 0, 0, 0, 'scheduled__2026-11-22', '2026-11-27 22:19:23.395431+00');
INSERT INTO public.batches VALUES (1, '2026-11-20', 0, 0, 0, 0, 'scheduled__2026-11-22', '2026-11-27 22:19:23.395663+00');
INSERT INTO public.batches VALUES (1, '2026-11-22', 3, 1, 0, 0, 'scheduled__2026-11-22', '2026-11-27 22:19:23.394893+00');


--
-- Data for Name: claims; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.claims VALUES (1, '2026-11-22', 'scheduled__2026-11-22', '2026-11-27 22:19:23.117309+00', '2026-11-28 01:19:25.475418+00');


--
-- Data for Name: feature_sets; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.feature_sets VALUES (1, 'birds-resnet101-883095738bb1', 'birds', 'resnet101', '883095738bb1', 's3://models/resnet101/', 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', '{"min_boxes": 36, "max_boxes": 36, "confidence_threshold": 0.0, "background": false}', 'fp32', true, '2026-11-27 22:19:15.829226+00');


--
-- Data for Name: featurise_schema; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.featurise_schema VALUES ('0001');


--
-- Data for Name: gpu_attempts; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.gpu_attempts VALUES (1, 1, '2026-11-22', 'scheduled__2026-11-22', 'shard-00013', 1, 1, 'process', '1@host', NULL, NULL, NULL, NULL, NULL, '', 0, 0, '2026-11-27 22:19:25.623491+00', NULL);


--
-- Data for Name: images; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.images VALUES (1, 'images/birds/2026-11-21/a.jpg', '0cc175b9c0f1b6a831c399e269772661', 'a', '2026-11-21', 1, false, NULL, '2026-11-27 22:19:18.836408+00', 1, 'ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb', 1);
INSERT INTO public.images VALUES (1, 'images/birds/2026-11-21/b.jpg', '92eb5ffee6ae2fec3ad71c777531578f', 'b', '2026-11-21', 1, false, NULL, '2026-11-27 22:19:21.946806+00', 3, '3e23e8160039594a33894f6564e1b1348bbd7a0088d42c4acb73eeaed59c009d', 1);
INSERT INTO public.images VALUES (1, 'images/birds/2026-11-22/c.jpg', '4a8a08f09d37b73795649038408b5f33', 'c', '2026-11-22', 1, false, NULL, '2026-11-27 22:19:24.845673+00', 4, '2e7d2c03a9507ae265ecf5b5356885a53393a2029d241394997265a1a25aefc6', 1);


--
-- Data for Name: rejects; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.rejects VALUES (1, 'images/birds/2026-11-21/x.jpg', 'bae60998ffe4923b131e3d6e4c19993e', 'x', '2026-11-21', 3, false, NULL, '2026-11-27 22:19:20.470771+00', 'not_an_image', 'starts with `bad`', 'scheduled__2026-11-21');


--
-- Data for Name: shards; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.shards VALUES (1, 1, '2026-11-21', 'scheduled__2026-11-21', 'shard-00008', 's3://BUCKET/features/birds/resnet101/883095738bb1/2026-11-21/shard-00008-ce6c245cbce8.h5', 's3://BUCKET/features/birds/resnet101/883095738bb1/2026-11-21/shard-00008-ce6c245cbce8.index.jsonl', 's3://BUCKET/features/birds/resnet101/883095738bb1/2026-11-21/shard-00008-ce6c245cbce8.rejects.jsonl', 'ce6c245cbce804ae6dfc1217e8b6fcc6ac807cc58862341537dfc2a28652c060', 20608, 1, 0, '{"images": 1, "norm": {"total": 65.03534698486328, "squares": 4229.5963574415655}, "zeros": {"total": 0.0, "squares": 0.0}, "boxes": {"1": 1}, "classes": {"1127": 1}, "class_squares": {"1127": 1}}', '[{"image_id": "a", "key": "images/birds/2026-11-21/a.jpg", "width": 640, "height": 480, "boxes": [[306.0, 76.5999984741211, 626.5999755859375, 346.79998779296875]], "classes": [1127], "confidences": [0.24699999392032623]}]', '[]', '2026-11-27 22:19:18.784596+00');
INSERT INTO public.shards VALUES (2, 1, '2026-11-21', 'scheduled__2026-11-21', 'shard-00009', 's3://BUCKET/features/birds/resnet101/883095738bb1/2026-11-21/shard-00009-e75ae2cb29c2.h5', 's3://BUCKET/features/birds/resnet101/883095738bb1/2026-11-21/shard-00009-e75ae2cb29c2.index.jsonl', 's3://BUCKET/features/birds/resnet101/883095738bb1/2026-11-21/shard-00009-e75ae2cb29c2.rejects.jsonl', 'e75ae2cb29c2c75921433eebcb45f5f0a34ee13224aa86feb37e9f16c6ca7908', 6360, 0, 1, '{"images": 0, "norm": {"total": 0.0, "squares": 0.0}, "zeros": {"total": 0.0, "squares": 0.0}, "boxes": {}, "classes": {}, "class_squares": {}}', '[]', '[]', '2026-11-27 22:19:20.407281+00');
INSERT INTO public.shards VALUES (3, 1, '2026-11-21', 'scheduled__2026-11-21', 'shard-00005', 's3://BUCKET/features/birds/resnet101/883095738bb1/2026-11-21/shard-00005-e7d94f0ca104.h5', 's3://BUCKET/features/birds/resnet101/883095738bb1/2026-11-21/shard-00005-e7d94f0ca104.index.jsonl', 's3://BUCKET/features/birds/resnet101/883095738bb1/2026-11-21/shard-00005-e7d94f0ca104.rejects.jsonl', 'e7d94f0ca10462086d00f64a484e2e00707de72db3ab858bb2da992753178adc', 20608, 1, 0, '{"images": 1, "norm": {"total": 66.04551696777344, "squares": 4362.010311540449}, "zeros": {"total": 0.0, "squares": 0.0}, "boxes": {"1": 1}, "classes": {"290": 1}, "class_squares": {"290": 1}}', '[{"image_id": "b", "key": "images/birds/2026-11-21/b.jpg", "width": 640, "height": 480, "boxes": [[115.4000015258789, 235.3000030517578, 570.2999877929688, 418.8999938964844]], "classes": [290], "confidences": [0.9929999709129333]}]', '[]', '2026-11-27 22:19:21.899399+00');
INSERT INTO public.shards VALUES (4, 1, '2026-11-22', 'scheduled__2026-11-22', 'shard-00002', 's3://BUCKET/features/birds/resnet101/883095738bb1/2026-11-22/shard-00002-034f54a0951e.h5', 's3://BUCKET/features/birds/resnet101/883095738bb1/2026-11-22/shard-00002-034f54a0951e.index.jsonl', 's3://BUCKET/features/birds/resnet101/883095738bb1/2026-11-22/shard-00002-034f54a0951e.rejects.jsonl', '034f54a0951ec10803cd87cf2ece75267f5f94b08255af17c5476ebeea1bfea2', 20608, 1, 0, '{"images": 1, "norm": {"total": 64.3960189819336, "squares": 4146.847260721552}, "zeros": {"total": 0.0, "squares": 0.0}, "boxes": {"1": 1}, "classes": {"414": 1}, "class_squares": {"414": 1}}', '[{"image_id": "c", "key": "images/birds/2026-11-22/c.jpg", "width": 640, "height": 480, "boxes": [[315.29998779296875, 16.200000762939453, 408.20001220703125, 423.6000061035156]], "classes": [414], "confidences": [0.7200000286102295]}]', '[]', '2026-11-27 22:19:24.816422+00');


--
-- Name: feature_sets_id_seq; Type: SEQUENCE SET; Schema: public; Owner: -
--

SELECT pg_catalog.setval('public.feature_sets_id_seq', 1, true);


--
-- Name: gpu_attempts_id_seq; Type: SEQUENCE SET; Schema: public; Owner: -
--

SELECT pg_catalog.setval('public.gpu_attempts_id_seq', 1, true);


--
-- Name: shards_id_seq; Type: SEQUENCE SET; Schema: public; Owner: -
--

SELECT pg_catalog.setval('public.shards_id_seq', 4, true);


--
-- Name: batches batches_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.batches
    ADD CONSTRAINT batches_pkey PRIMARY KEY (feature_set_id, batch);


--
-- Name: claims claims_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.claims
    ADD CONSTRAINT claims_pkey PRIMARY KEY (feature_set_id, batch);


--
-- Name: feature_sets feature_sets_name_key; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.feature_sets
    ADD CONSTRAINT feature_sets_name_key UNIQUE (name);


--
-- Name: feature_sets feature_sets_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.feature_sets
    ADD CONSTRAINT feature_sets_pkey PRIMARY KEY (id);


--
-- Name: featurise_schema featurise_schema_pkc; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.featurise_schema
    ADD CONSTRAINT featurise_schema_pkc PRIMARY KEY (version_num);


--
-- Name: gpu_attempts gpu_attempts_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.gpu_attempts
    ADD CONSTRAINT gpu_attempts_pkey PRIMARY KEY (id);


--
-- Name: images images_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.images
    ADD CONSTRAINT images_pkey PRIMARY KEY (feature_set_id, key, etag);


--
-- Name: rejects rejects_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.rejects
    ADD CONSTRAINT rejects_pkey PRIMARY KEY (feature_set_id, key, etag);


--
-- Name: shards shards_feature_set_id_batch_run_id_name_key; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.shards
    ADD CONSTRAINT shards_feature_set_id_batch_run_id_name_key UNIQUE (feature_set_id, batch, run_id, name);


--
-- Name: shards shards_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.shards
    ADD CONSTRAINT shards_pkey PRIMARY KEY (id);


--
-- Name: shards shards_uri_key; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.shards
    ADD CONSTRAINT shards_uri_key UNIQUE (uri);


--
-- Name: gpu_attempts_by_shard; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX gpu_attempts_by_shard ON public.gpu_attempts USING btree (feature_set_id, batch, run_id, shard);


--
-- Name: images_by_batch; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX images_by_batch ON public.images USING btree (feature_set_id, batch);


--
-- Name: images_by_id; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX images_by_id ON public.images USING btree (feature_set_id, image_id);


--
-- Name: images_by_shard; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX images_by_shard ON public.images USING btree (shard_id);


--
-- Name: rejects_by_batch; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX rejects_by_batch ON public.rejects USING btree (feature_set_id, batch);


--
-- Name: rejects_by_id; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX rejects_by_id ON public.rejects USING btree (feature_set_id, image_id);


--
-- Name: batches batches_feature_set_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.batches
    ADD CONSTRAINT batches_feature_set_id_fkey FOREIGN KEY (feature_set_id) REFERENCES public.feature_sets(id);


--
-- Name: claims claims_feature_set_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.claims
    ADD CONSTRAINT claims_feature_set_id_fkey FOREIGN KEY (feature_set_id) REFERENCES public.feature_sets(id);


--
-- Name: gpu_attempts gpu_attempts_feature_set_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.gpu_attempts
    ADD CONSTRAINT gpu_attempts_feature_set_id_fkey FOREIGN KEY (feature_set_id) REFERENCES public.feature_sets(id);


--
-- Name: images images_shard_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.images
    ADD CONSTRAINT images_shard_id_fkey FOREIGN KEY (shard_id) REFERENCES public.shards(id);


--
-- Name: rejects rejects_feature_set_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.rejects
    ADD CONSTRAINT rejects_feature_set_id_fkey FOREIGN KEY (feature_set_id) REFERENCES public.feature_sets(id);


--
-- Name: shards shards_feature_set_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.shards
    ADD CONSTRAINT shards_feature_set_id_fkey FOREIGN KEY (feature_set_id) REFERENCES public.feature_sets(id);


--
-- PostgreSQL database dump complete
--


